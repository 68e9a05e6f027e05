/* The clicks of the point protocol. See clicker.h. */
#include "data/clicker.h"

#include <string.h>

typedef struct Window {
    int64_t top, left, height, width; /* px; height 0: nothing */
} Window;

typedef struct Deepest {
    int64_t x, y;
    int64_t squared; /* px^2 */
} Deepest;

void clicker_free(Clicker *clicker)
{
    distance_scratch_free(&clicker->distance);
    buffer_free(&clicker->wrong);
    buffer_free(&clicker->squared);
}

/* Pixels of `in` that are not in `out`. */
static void subtract(const uint8_t *in, const uint8_t *out, int64_t n_px, uint8_t *dst)
{
    for (int64_t i = 0; i < n_px; i++) dst[i] = (in[i] != 0) & (out[i] == 0);
}

static bool column_is_empty(const uint8_t *mask, ImageSize size, int64_t top, int64_t end,
                            int64_t x)
{
    for (int64_t y = top; y < end; y++)
        if (mask[y * size.width + x]) return false;
    return true;
}

static bool row_is_empty(const uint8_t *mask, ImageSize size, int64_t y)
{
    return memchr(mask + y * size.width, 1, (size_t)size.width) == NULL;
}

/* The smallest window that holds all ones. Distances inside it are those of the whole image: the
 * zero nearest to a pixel is never further away than the window's outer edge. */
static Window window_of(const uint8_t *mask, ImageSize size)
{
    int64_t top = 0, bottom = size.height, left = 0, right = size.width;
    while (top < bottom && row_is_empty(mask, size, top)) top++;
    if (top == bottom) return (Window){0};
    while (row_is_empty(mask, size, bottom - 1)) bottom--;
    while (column_is_empty(mask, size, top, bottom, left)) left++;
    while (column_is_empty(mask, size, top, bottom, right - 1)) right--;
    return (Window){top, left, bottom - top, right - left};
}

static void forget_clicked(int32_t *squared, Window window, int64_t n, const Click *clicks)
{
    for (int64_t i = 0; i < n; i++) {
        int64_t y = clicks[i].y - window.top, x = clicks[i].x - window.left;
        if (y >= 0 && y < window.height && x >= 0 && x < window.width)
            squared[y * window.width + x] = 0;
    }
}

static Deepest first_maximum(const int32_t *squared, Window window)
{
    Deepest best = {0};
    for (int64_t y = 0; y < window.height; y++)
        for (int64_t x = 0; x < window.width; x++)
            if (squared[y * window.width + x] > best.squared)
                best = (Deepest){window.left + x, window.top + y, squared[y * window.width + x]};
    return best;
}

static Status find_deepest(Clicker *clicker, const uint8_t *in, const uint8_t *out, ImageSize size,
                           int64_t n, const Click *earlier, Deepest *deepest)
{
    uint8_t *wrong = clicker->wrong.data;
    subtract(in, out, size.height * size.width, wrong);
    Window window = window_of(wrong, size);
    *deepest = (Deepest){0};
    if (window.height == 0) return OK;
    size_t n_px = (size_t)(window.height * window.width);
    TRY(buffer_reserve(&clicker->squared, n_px * sizeof(int32_t)));
    int32_t *squared = clicker->squared.data;
    TRY(distance_squared(&clicker->distance, wrong + window.top * size.width + window.left,
                         window.height, window.width, size.width, squared));
    forget_clicked(squared, window, n, earlier);
    *deepest = first_maximum(squared, window);
    return OK;
}

Status clicker_next(Clicker *clicker, const uint8_t *truth, const uint8_t *prediction,
                    ImageSize size, int64_t n, const Click *earlier, Click *out)
{
    Deepest missing, superfluous;
    TRY(buffer_reserve(&clicker->wrong, (size_t)(size.height * size.width)));
    TRY(find_deepest(clicker, truth, prediction, size, n, earlier, &missing));
    TRY(find_deepest(clicker, prediction, truth, size, n, earlier, &superfluous));
    bool positive = missing.squared > superfluous.squared;
    Deepest chosen = positive ? missing : superfluous;
    *out = (Click){.x = chosen.x,
                   .y = chosen.y,
                   .positive = positive,
                   .missing = missing.squared,
                   .superfluous = superfluous.squared};
    return OK;
}
