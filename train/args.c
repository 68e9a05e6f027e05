/* The command line of a subcommand. See args.h. */
#include "train/args.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/text.h"

static char *take(Args *args, int index)
{
    char *word = args->words[index];
    memmove(&args->words[index], &args->words[index + 1],
            (size_t)(args->n - index - 1) * sizeof(char *));
    args->n--;
    return word;
}

const char *args_positional(Args *args)
{
    for (int i = 0; i < args->n; i++)
        if (strncmp(args->words[i], "--", 2) != 0) return take(args, i);
    return NULL;
}

const char *args_flag(Args *args, const char *name)
{
    size_t n = strlen(name);
    for (int i = 0; i < args->n; i++) {
        const char *word = args->words[i];
        if (strncmp(word, "--", 2) == 0 && strncmp(word + 2, name, n) == 0 && word[2 + n] == '=')
            return take(args, i) + 3 + n;
    }
    return NULL;
}

bool args_switch(Args *args, const char *name)
{
    for (int i = 0; i < args->n; i++) {
        if (strncmp(args->words[i], "--", 2) != 0 || strcmp(args->words[i] + 2, name) != 0)
            continue;
        take(args, i);
        return true;
    }
    return false;
}

Status args_need(Args *args, const char *name, const char *usage, const char **out)
{
    *out = args_flag(args, name);
    if (*out) return OK;
    return status_fail(E_CONFIG, "--%s=.. is missing; usage: %s", name, usage);
}

Status args_int(Args *args, const char *name, int64_t missing, int64_t min, int64_t max,
                int64_t *out)
{
    const char *text = args_flag(args, name);
    *out = missing;
    if (!text) return OK;
    char *end;
    errno = 0;
    long long value = strtoll(text, &end, 10);
    if (errno || end == text || *end || value < min || value > max)
        return status_fail(E_CONFIG, "--%s=%s: wanted a whole number from %lld to %lld", name, text,
                           (long long)min, (long long)max);
    *out = value;
    return OK;
}

Status args_double(Args *args, const char *name, double missing, double *out)
{
    const char *text = args_flag(args, name);
    *out = missing;
    if (!text || text_to_double(text, out)) return OK;
    return status_fail(E_CONFIG, "--%s=%s: wanted a number", name, text);
}

Status args_finish(const Args *args, const char *usage)
{
    if (args->n == 0) return OK;
    return status_fail(E_CONFIG, "unknown argument %s; usage: %s", args->words[0], usage);
}
