/* The per-thread failure message. See status.h. */
#include "base/status.h"

#include <stdarg.h>
#include <stdio.h>

static _Thread_local char message[1024];

Status status_fail(Status code, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(message, sizeof message, format, args);
    va_end(args);
    for (char *c = message; *c; c++) /* names come from files; a message stays one line */
        if ((unsigned char)*c < ' ' || *c == 127) *c = '?';
    return code;
}

const char *status_message(void) { return message; }
