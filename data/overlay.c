/* Masks and prompts drawn onto a picture. See overlay.h.
 *
 * Lines and discs grow with the picture, so that they look alike in pictures of any size.
 */
#include "data/overlay.h"

#include <math.h>
#include <stdlib.h>

static const double tint = 0.4; /* share of the colour in a mask's pixels */

static const Colour foreground_colour = {{40, 200, 60}};
static const Colour background_colour = {{225, 40, 40}};
static const Colour white = {{255, 255, 255}};

Colour overlay_colour(int64_t number)
{
    static const Colour colours[] = {
        {{30, 144, 255}}, {{255, 140, 0}},  {{190, 60, 220}}, {{0, 190, 170}},
        {{240, 210, 0}},  {{250, 90, 140}}, {{120, 200, 30}}, {{150, 110, 70}},
    };
    return colours[number % (int64_t)(sizeof colours / sizeof colours[0])];
}

static double longer_side(const Canvas *canvas)
{
    ImageSize size = canvas->size;
    return (double)(size.height > size.width ? size.height : size.width);
}

static double line_width(const Canvas *canvas) { return fmax(1, round(longer_side(canvas) / 500)); }

static double disc_radius(const Canvas *canvas) { return fmax(3, longer_side(canvas) / 130); }

static void blend(Canvas *canvas, int64_t y, int64_t x, Colour colour, double share)
{
    uint8_t *pixel = canvas->rgb + 3 * (y * canvas->size.width + x);
    for (int c = 0; c < 3; c++)
        pixel[c] = (uint8_t)lround((1 - share) * pixel[c] + share * colour.rgb[c]);
}

static Status draw_mask(Canvas *canvas, const uint8_t *mask, Colour colour, double inner_share,
                        DistanceScratch *scratch)
{
    int64_t height = canvas->size.height, width = canvas->size.width;
    double outline = line_width(canvas) * line_width(canvas);
    int32_t *squared = malloc((size_t)(height * width) * sizeof *squared);
    if (!squared) return status_fail(E_MEMORY, "out of memory: outline of a mask");
    Status status = distance_squared(scratch, mask, height, width, width, squared);
    for (int64_t i = 0; status == OK && i < height * width; i++)
        if (mask[i])
            blend(canvas, i / width, i % width, colour, squared[i] <= outline ? 1 : inner_share);
    free(squared);
    return status;
}

Status overlay_mask(Canvas *canvas, const uint8_t *mask, Colour colour, DistanceScratch *scratch)
{
    return draw_mask(canvas, mask, colour, tint, scratch);
}

Status overlay_outline(Canvas *canvas, const uint8_t *mask, Colour colour, DistanceScratch *scratch)
{
    return draw_mask(canvas, mask, colour, 0, scratch);
}

/* The whole pixels from a to b, cut to 0..n-1. */
typedef struct Span {
    int64_t first, end;
} Span;

static Span span_of(double a, double b, int64_t n)
{
    return (Span){(int64_t)fmax(floor(a), 0), (int64_t)fmin(ceil(b) + 1, (double)n)};
}

void overlay_box(Canvas *canvas, const double box[4], Colour colour)
{
    double half = line_width(canvas) / 2;
    Span columns = span_of(box[0] - half, box[2] + half, canvas->size.width);
    Span rows = span_of(box[1] - half, box[3] + half, canvas->size.height);
    for (int64_t y = rows.first; y < rows.end; y++)
        for (int64_t x = columns.first; x < columns.end; x++) {
            double dx = fmax(box[0] - (double)x, (double)x - box[2]); /* > 0: outside */
            double dy = fmax(box[1] - (double)y, (double)y - box[3]);
            if (fabs(fmax(dx, dy)) <= half) blend(canvas, y, x, colour, 1);
        }
}

/* How much of a pixel at this distance from the centre a disc covers. */
static double coverage(double radius, double distance)
{
    return fmin(fmax(radius + 0.5 - distance, 0), 1);
}

void overlay_point(Canvas *canvas, double x, double y, bool foreground)
{
    double radius = disc_radius(canvas), rim = radius * 1.4;
    Span columns = span_of(x - rim, x + rim, canvas->size.width);
    Span rows = span_of(y - rim, y + rim, canvas->size.height);
    for (int64_t row = rows.first; row < rows.end; row++)
        for (int64_t column = columns.first; column < columns.end; column++) {
            double distance = hypot((double)column - x, (double)row - y);
            blend(canvas, row, column, white, coverage(rim, distance));
            blend(canvas, row, column, foreground ? foreground_colour : background_colour,
                  coverage(radius, distance));
        }
}
