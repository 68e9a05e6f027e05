/* The checks that shape rules share. See shape_checks.h. */
#include "autograd/shape_checks.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>

enum { SHAPE_TEXT_BYTES = 128 };

Status shape_fail(const ShapeCall *call, const char *format, ...)
{
    char text[800];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    return status_fail(E_SHAPE, "%s: %s: %s", call->label, op_info(call->op)->name, text);
}

Status shape_want(const ShapeCall *call, int src, const char *what, Shape wanted)
{
    if (shape_equal(shape_of(call, src), wanted)) return OK;
    char got_text[SHAPE_TEXT_BYTES], wanted_text[SHAPE_TEXT_BYTES];
    return shape_fail(call, "%s (source %d) has shape (%s), wanted (%s)", what, src,
                      shape_format(shape_of(call, src), got_text, sizeof got_text),
                      shape_format(wanted, wanted_text, sizeof wanted_text));
}

Status shape_want_optional(const ShapeCall *call, int src, const char *what, Shape wanted)
{
    return shape_present(call, src) ? shape_want(call, src, what, wanted) : OK;
}

Status shape_want_rank(const ShapeCall *call, int src, const char *what, int rank)
{
    if (shape_of(call, src).rank == rank) return OK;
    char text[SHAPE_TEXT_BYTES];
    return shape_fail(call, "%s (source %d) has shape (%s), wanted one of rank %d", what, src,
                      shape_format(shape_of(call, src), text, sizeof text), rank);
}

Status shape_want_equal(const ShapeCall *call, const char *what, int64_t got, int64_t wanted)
{
    if (got == wanted) return OK;
    return shape_fail(call, "%s: got %" PRId64 ", wanted %" PRId64, what, got, wanted);
}

Status shape_want_positive(const ShapeCall *call, const char *what, int64_t got)
{
    if (got >= 1) return OK;
    return shape_fail(call, "%s: got %" PRId64 ", wanted at least 1", what, got);
}

Status shape_want_axis(const ShapeCall *call, int src, int axis)
{
    if (axis >= 0 && axis < shape_of(call, src).rank) return OK;
    char text[SHAPE_TEXT_BYTES];
    return shape_fail(call, "axis %d is outside source %d of shape (%s)", axis, src,
                      shape_format(shape_of(call, src), text, sizeof text));
}

Status shape_want_activation(const ShapeCall *call, Activation kind)
{
    if (kind >= ACT_NONE && kind <= ACT_HARDSWISH) return OK;
    return shape_fail(call, "activation %d is unknown", (int)kind);
}
