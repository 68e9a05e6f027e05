/* Running the program and comparing what it leaves. See program.h. */
#include "tests/program.h"

#include <criterion/criterion.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static ProgramResult last;

char *file_text(const char *path)
{
    char *text = NULL;
    size_t n_bytes;
    cr_assert_eq(file_read(path, (size_t)1 << 28, &text, &n_bytes), OK, "%s", status_message());
    return text;
}

static const ProgramResult *run(const char *format, va_list args)
{
    char words[4096], command[4500], out[64], err[64];
    int length = vsnprintf(words, sizeof words, format, args);
    cr_assert_lt(length, (int)sizeof words);
    mkdir("build", 0755);
    mkdir("build/tmp", 0755);
    snprintf(out, sizeof out, "build/tmp/program_%d.out", (int)getpid());
    snprintf(err, sizeof err, "build/tmp/program_%d.err", (int)getpid());
    snprintf(command, sizeof command, RETORT_BINARY " %s >%s 2>%s", words, out, err);
    int status = system(command);
    free(last.out);
    free(last.err);
    last = (ProgramResult){.code = WIFEXITED(status) ? WEXITSTATUS(status)
                                                     : 128 + WTERMSIG(status)};
    last.out = file_text(out);
    last.err = file_text(err);
    unlink(out);
    unlink(err);
    return &last;
}

const ProgramResult *program_run(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    const ProgramResult *result = run(format, args);
    va_end(args);
    return result;
}

const ProgramResult *program_succeed(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    const ProgramResult *result = run(format, args);
    va_end(args);
    cr_assert_eq(result->code, 0, "exit code %d: %s", result->code, result->err);
    return result;
}

void shell(const char *format, ...)
{
    char command[4096];
    va_list args;
    va_start(args, format);
    int length = vsnprintf(command, sizeof command, format, args);
    va_end(args);
    cr_assert_lt(length, (int)sizeof command);
    cr_assert_eq(system(command), 0, "%s", command);
}

const char *program_error(const ProgramResult *result)
{
    size_t n = strlen(result->err);
    while (n > 0 && result->err[n - 1] == '\n') result->err[--n] = '\0';
    const char *line = strrchr(result->err, '\n');
    return line ? line + 1 : result->err;
}

int log_column(const char *folder, const char *key, int room, double *values)
{
    char path[300], wanted[64];
    snprintf(path, sizeof path, "%s/log.jsonl", folder);
    snprintf(wanted, sizeof wanted, "\"%s\":", key);
    char *text = file_text(path), *rest = text;
    int n = 0;
    for (char *line; (line = strsep(&rest, "\n")) && *line; n++) {
        const char *at = strstr(line, wanted);
        cr_assert(at && n < room && sscanf(at + strlen(wanted), "%lf", &values[n]) == 1,
                  "%s, line %d: no %s in %s", path, n + 1, key, line);
    }
    free(text);
    return n;
}

/* ---- files of tensors ---- */

static bool same_tensor(const Tensor *a, const Tensor *b)
{
    return b && a->dtype == b->dtype && shape_equal(a->shape, b->shape) &&
           memcmp(a->data, b->data, tensor_bytes(a)) == 0;
}

bool same_tensors(const char *path_a, const char *path_b, char *why, size_t why_bytes)
{
    SafeTensors *a, *b;
    cr_assert_eq(safetensors_open(path_a, &a), OK, "%s", status_message());
    cr_assert_eq(safetensors_open(path_b, &b), OK, "%s", status_message());
    bool same = a->n_tensors == b->n_tensors;
    snprintf(why, why_bytes, "%s holds %d tensors, %s %d", path_a, a->n_tensors, path_b,
             b->n_tensors);
    for (int i = 0; i < a->n_tensors && same; i++) {
        same = same_tensor(&a->tensors[i].tensor, safetensors_find(b, a->tensors[i].name));
        if (!same)
            snprintf(why, why_bytes, "%s and %s differ in %s", path_a, path_b, a->tensors[i].name);
    }
    safetensors_close(a);
    safetensors_close(b);
    return same;
}
