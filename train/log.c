/* Text and records of a run. See log.h. */
#include "train/log.h"

#include <yajl/yajl_gen.h>

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/memory.h"

struct Log {
    FILE *text;
    FILE *records;
    char *records_path;
    Progress *progress; /* not owned; NULL: none */
};

Status log_open(FILE *text, const char *records_path, Log **out)
{
    Log *log = mem_alloc(sizeof *log);
    log->text = text;
    if (records_path) {
        log->records_path = mem_string(records_path);
        log->records = fopen(records_path, "ab");
        if (!log->records) {
            Status status = status_fail(E_FILE, "%s: cannot be opened for writing: %s",
                                        records_path, strerror(errno));
            log_close(log);
            return status;
        }
    }
    *out = log;
    return OK;
}

void log_close(Log *log)
{
    if (!log) return;
    if (log->records) fclose(log->records);
    free(log->records_path);
    free(log);
}

/* Bytes of the whole lines before the first record of `step` or later. */
static off_t bytes_before(FILE *file, int64_t step)
{
    char *line = NULL;
    size_t room = 0;
    off_t bytes = 0;
    for (ssize_t n; (n = getline(&line, &room, file)) > 0 && line[n - 1] == '\n'; bytes += n) {
        int64_t found;
        if (sscanf(line, "{\"step\":%" SCNd64, &found) == 1 && found >= step) break;
    }
    free(line);
    return bytes;
}

Status log_rewind(Log *log, int64_t step)
{
    FILE *file = fopen(log->records_path, "rb");
    if (!file)
        return status_fail(E_FILE, "%s: cannot be opened: %s", log->records_path, strerror(errno));
    off_t bytes = bytes_before(file, step);
    bool failed = ferror(file);
    fclose(file);
    if (!failed && ftruncate(fileno(log->records), bytes) == 0) return OK;
    return status_fail(E_FILE, "%s: cannot be cut back to step %" PRId64 ": %s", log->records_path,
                       step, strerror(errno));
}

void log_attach(Log *log, Progress *progress) { log->progress = progress; }

void log_text(Log *log, LogLevel level, const char *format, ...)
{
    static const char *const names[] = {"info", "warn", "error"};
    if (!log->text) return;
    char when[32];
    time_t now = time(NULL);
    struct tm parts;
    strftime(when, sizeof when, "%Y-%m-%d %H:%M:%S", localtime_r(&now, &parts));
    va_list args;
    va_start(args, format);
    progress_hide(log->progress);
    flockfile(log->text); /* one line stays one line, whoever else writes */
    fprintf(log->text, "%s %-5s ", when, names[level]);
    vfprintf(log->text, format, args);
    fputc('\n', log->text);
    funlockfile(log->text);
    progress_show(log->progress);
    va_end(args);
}

/* As few digits as give the same double again; null for what JSON cannot say. */
static yajl_gen_status gen_double(yajl_gen gen, double value)
{
    char text[32];
    if (!isfinite(value)) return yajl_gen_null(gen);
    for (int digits = 6; digits <= 17; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, value);
        if (strtod(text, NULL) == value) break;
    }
    return yajl_gen_number(gen, text, strlen(text));
}

static yajl_gen_status gen_text(yajl_gen gen, const char *text)
{
    return yajl_gen_string(gen, (const unsigned char *)text, strlen(text));
}

static bool gen_field(yajl_gen gen, const LogField *field)
{
    if (gen_text(gen, field->key) != yajl_gen_status_ok) return false;
    switch (field->kind) {
    case LOG_FIELD_INT: return yajl_gen_integer(gen, field->integer) == yajl_gen_status_ok;
    case LOG_FIELD_DOUBLE: return gen_double(gen, field->number) == yajl_gen_status_ok;
    case LOG_FIELD_TEXT: return gen_text(gen, field->text) == yajl_gen_status_ok;
    }
    return false;
}

static Status write_line(const Log *log, const unsigned char *json, size_t n_bytes)
{
    bool written = fwrite(json, 1, n_bytes, log->records) == n_bytes &&
                   fputc('\n', log->records) != EOF && fflush(log->records) == 0;
    if (written) return OK;
    return status_fail(E_FILE, "%s: cannot be written: %s", log->records_path, strerror(errno));
}

Status log_record(Log *log, int n_fields, const LogField *fields)
{
    if (!log->records) return OK;
    yajl_gen gen = yajl_gen_alloc(NULL);
    assert(gen);
    yajl_gen_config(gen, yajl_gen_validate_utf8, 1);
    yajl_gen_map_open(gen);
    Status status = OK;
    for (int i = 0; i < n_fields && status == OK; i++)
        if (!gen_field(gen, &fields[i]))
            status = status_fail(E_FORMAT, "%s: field %s is not UTF-8", log->records_path,
                                 fields[i].key);
    yajl_gen_map_close(gen);
    const unsigned char *json;
    size_t n_bytes;
    yajl_gen_get_buf(gen, &json, &n_bytes);
    if (status == OK) status = write_line(log, json, n_bytes);
    yajl_gen_free(gen);
    return status;
}
