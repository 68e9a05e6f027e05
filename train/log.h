/* The two streams of a run: text for people, and one line of JSON per step for programs.
 *
 * Text goes to stderr (or any FILE), with time and level. Records go to log.jsonl of the run
 * folder, are flushed one by one, and carry their units in the keys: step, lr, loss, grad_norm,
 * img_per_s, step_ms, data_wait_ms, peak_bytes. Used by train/ only; nothing below logs.
 *
 * Invariant: a record begins with "step", the update it belongs to, counted from 0 (of weights
 * after N updates: N-1), and steps never fall. So what a run that goes on from step N will do again
 * is the end of the file, and log_rewind takes it away: no step is there twice.
 */
#ifndef RETORT_TRAIN_LOG_H
#define RETORT_TRAIN_LOG_H

#include <stdint.h>
#include <stdio.h>

#include "base/status.h"
#include "train/progress.h"

typedef enum LogLevel { LOG_INFO, LOG_WARN, LOG_ERROR } LogLevel;

typedef struct Log Log;

/* log_open: `text` is not owned and may be NULL (silent); records_path NULL: no records, else
 * appended to.
 * errors  E_FILE */
Status log_open(FILE *text, const char *records_path, Log **out);
void log_close(Log *log);

/* log_attach: lines of text go above the progress line on the same terminal. NULL: none (again). */
void log_attach(Log *log, Progress *progress);

/* log_rewind: removes the records of `step` and later ones, and a last line that is not whole: they
 * are of a process that was killed after the state that the run goes on from. errors  E_FILE */
Status log_rewind(Log *log, int64_t step);

/* log_text: one line, "2024-05-01 12:34:56 info  ...". `format` needs no newline. */
void log_text(Log *log, LogLevel level, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

typedef struct LogField {
    const char *key;
    enum { LOG_FIELD_INT, LOG_FIELD_DOUBLE, LOG_FIELD_TEXT } kind;
    union {
        int64_t integer;
        double number;
        const char *text;
    };
} LogField;

#define LOG_INT(key_, value) ((LogField){.key = key_, .kind = LOG_FIELD_INT, .integer = value})
#define LOG_DOUBLE(key_, value) ((LogField){.key = key_, .kind = LOG_FIELD_DOUBLE, .number = value})
#define LOG_TEXT(key_, value) ((LogField){.key = key_, .kind = LOG_FIELD_TEXT, .text = value})

/* log_record: one JSON object on a line. NaN and infinities, which JSON lacks, become null;
 * other numbers come back as they were.
 * errors  E_FILE if it cannot be written (full disk); E_FORMAT if a text is not UTF-8 */
Status log_record(Log *log, int n_fields, const LogField *fields);

#endif
