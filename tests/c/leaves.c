/* Closes stderr before its end, as coreutils do. What its argument says besides: it has files of its own where descriptors were,
 * or overwrites memory. */
#include "check.h"
#include <fcntl.h>

static const char *which;

static void leave(void)
{
    close(2);
    if (strcmp(which, "reuses") == 0) {
        int own = open(which, O_WRONLY | O_CREAT | O_TRUNC, 0600);
        CHECK(own >= 0);
        for (int at = own + 1; at < 1000 && dup2(own, at) == at; at++)
            ;
        close(2);
    }
}

int main(int count, char **arguments)
{
    CHECK(count == 2);
    which = arguments[1];
    char *block = hidden(malloc(unknown(100)));
    if (strcmp(which, "overwrites") == 0)
        block[unknown(100)] = 1;
    CHECK(atexit(leave) == 0);
    return 0;
}
