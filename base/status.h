/* Status codes and the one message that travels with a failure.
 *
 * Called by every layer. A function that can meet an error of the user's world (file, config, GPU,
 * network) returns a Status. The message is composed once, at the source, and names what, where,
 * got, wanted and what to do; callers only pass the code up with TRY. Nothing below main prints or
 * exits.
 *
 * Invariant: the message belongs to the last status_fail of this thread; it stays until the next
 * one.
 */
#ifndef RETORT_BASE_STATUS_H
#define RETORT_BASE_STATUS_H

typedef enum Status {
    OK = 0,
    E_CONFIG,      /* an option or a model description is wrong */
    E_FILE,        /* a file or folder cannot be opened, read or written */
    E_FORMAT,      /* a file was read, but its content breaks its format's rules */
    E_SHAPE,       /* shapes or dtypes that must agree do not */
    E_UNSUPPORTED, /* a backend, dtype or build cannot do what was asked */
    E_MEMORY,      /* an allocation failed or a budget cannot be met */
    E_NUMERIC,     /* NaN or infinity where a number is needed */
    E_DEVICE,      /* an accelerator or its library reported an error */
    E_NETWORK,     /* a rank or the store cannot be reached */
    E_INTERRUPTED, /* stopped by a signal; state was saved */
} Status;

/* status_fail: store the printf-formatted message for this thread and return `code`.
 * units   the message is one line without a trailing newline; longer than 1,023 bytes is cut
 */
Status status_fail(Status code, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* status_message: the last message stored on this thread, "" if there was none. */
const char *status_message(void);

#define TRY(expr)                                  \
    do {                                           \
        Status try_status_ = (expr);               \
        if (try_status_ != OK) return try_status_; \
    } while (0)

/* For functions that must free something: sets `status` and jumps to the one exit label. */
#define TRY_GOTO(expr, label)         \
    do {                              \
        status = (expr);              \
        if (status != OK) goto label; \
    } while (0)

#endif
