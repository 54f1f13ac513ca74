/* A library to load and unload: it allocates when it is loaded, when it is called and when it is unloaded. */
#include <stdlib.h>
#include <string.h>

static char *text;

__attribute__((constructor)) static void load(void)
{
    text = malloc(1000);
    strcpy(text, "plugin");
}

__attribute__((destructor)) static void unload(void)
{
    free(text);
}

char *plugin_text(size_t size);
char *plugin_text(size_t size)
{
    char *copy = malloc(size);
    return copy ? strcpy(copy, text) : NULL;
}

void plugin_release(char *given);
void plugin_release(char *given)
{
    free(given);
}
