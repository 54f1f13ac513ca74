/* Linked with Millpond and installed with more rights than its user has: prints what it allocated, while the environment
 * asks for more words. */
#include <stdio.h>
#include <stdlib.h>
#include <sys/auxv.h>

int main(void)
{
    char *text = malloc(100);
    snprintf(text, 100, "secure %lu", getauxval(AT_SECURE));
    puts(text);
    free(text);
    return 0;
}
