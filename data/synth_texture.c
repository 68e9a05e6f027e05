/* Noise, colours and materials. See synth_texture.h. */
#include "data/synth_texture.h"

/* ---- Noise ---- */

void noise_fill(Noise *noise, Draws *draws)
{
    for (int y = 0; y < NOISE_SIDE; y++)
        for (int x = 0; x < NOISE_SIDE; x++) noise->value[y][x] = draw_between(draws, -1, 1);
}

static float smooth(float t) { return t * t * (3 - 2 * t); }

float noise_at(const Noise *noise, float x, float y)
{
    float floor_x = floorf(x), floor_y = floorf(y);
    float t = smooth(x - floor_x), s = smooth(y - floor_y);
    unsigned left = (unsigned)(int)floor_x % NOISE_SIDE, top = (unsigned)(int)floor_y % NOISE_SIDE;
    unsigned right = (left + 1) % NOISE_SIDE, bottom = (top + 1) % NOISE_SIDE;
    float above = noise->value[top][left] * (1 - t) + noise->value[top][right] * t;
    float below = noise->value[bottom][left] * (1 - t) + noise->value[bottom][right] * t;
    return above * (1 - s) + below * s;
}

/* ---- Colours ---- */

static float clamp01(float value) { return value < 0 ? 0 : value > 1 ? 1 : value; }

void colour_draw(Draws *draws, const float saturation[2], const float brightness[2], float rgb[3])
{
    float hue = draw_between(draws, 0, 6);
    float s = draw_between(draws, saturation[0], saturation[1]);
    float v = draw_between(draws, brightness[0], brightness[1]);
    for (int i = 0; i < 3; i++) { /* a channel is full within 60 degrees of its own hue */
        float away = fabsf(fmodf(hue - 2 * (float)i + 9, 6) - 3);
        rgb[i] = v * (1 - s * clamp01(away - 1));
    }
}

float colour_distance(const float a[3], const float b[3])
{
    float sum = 0;
    for (int i = 0; i < 3; i++) sum += (a[i] - b[i]) * (a[i] - b[i]);
    return sqrtf(sum);
}

/* ---- Materials ---- */

void material_draw(Draws *draws, float size_px, Material *material)
{
    static const Texture often[] = {
        TEXTURE_PLAIN,  TEXTURE_PLAIN,   TEXTURE_PLAIN, TEXTURE_GRADIENT, TEXTURE_GRADIENT,
        TEXTURE_CLOUDS, TEXTURE_STRIPES, TEXTURE_SPOTS, TEXTURE_CHECKS,   TEXTURE_GRAIN,
    };
    double angle = draw_between(draws, 0, 6.2831853);
    material->texture = often[draw_whole(draws, 0, sizeof often / sizeof often[0] - 1)];
    material->cosine = (float)cos(angle);
    material->sine = (float)sin(angle);
    material->mottle = draw_scale(draws, 0.01, 0.07);
    material->x = draw_between(draws, -50, 50);
    material->y = draw_between(draws, -50, 50);
    float finest = fmaxf(4, 0.12f * size_px), coarsest = fmaxf(6, 0.5f * size_px);
    material->period_px = draw_scale(draws, finest, coarsest);
    if (material->texture == TEXTURE_GRADIENT) material->period_px = 2 * size_px;
}

/* Sawtooth to a square wave whose flanks are about a pixel wide, so that stripes do not alias. */
static float square_wave(float phase, float period_px)
{
    float distance = fabsf(phase - floorf(phase) - 0.5f) - 0.25f; /* periods from the flank */
    return clamp01(0.5f + distance * period_px);
}

/* Share of the second colour. */
static float mix_at(const Material *material, const Noise *noise, float u, float v)
{
    float period = material->period_px, p = u / period, q = v / period;
    switch (material->texture) {
    case TEXTURE_PLAIN: return 0;
    case TEXTURE_GRADIENT: return clamp01(0.5f + p);
    case TEXTURE_STRIPES: return square_wave(p, period);
    case TEXTURE_CHECKS: {
        float a = square_wave(p, period), b = square_wave(q, period);
        return a + b - 2 * a * b;
    }
    case TEXTURE_SPOTS: {
        float x = p - floorf(p) - 0.5f, y = q - floorf(q) - 0.5f;
        return clamp01(0.5f + (0.28f - sqrtf(x * x + y * y)) * period);
    }
    case TEXTURE_CLOUDS:
        return clamp01(0.5f + 0.6f * noise_at(noise, p, q) +
                       0.3f * noise_at(noise, 2.1f * p + 7, 2.1f * q));
    default:
        return clamp01(0.5f + 0.6f * noise_at(noise, 0.2f * p, 1.5f * q) +
                       0.3f * noise_at(noise, 0.5f * p, 5 * q));
    }
}

void material_colour(const Material *material, const Noise *noise, float x, float y, float rgb[3])
{
    float from_x = x - material->x, from_y = y - material->y;
    float u = material->cosine * from_x + material->sine * from_y;
    float v = material->cosine * from_y - material->sine * from_x;
    float mix = mix_at(material, noise, u, v);
    float fine = material->mottle * noise_at(noise, 0.45f * u, 0.45f * v);
    for (int i = 0; i < 3; i++)
        rgb[i] = material->first[i] + mix * (material->second[i] - material->first[i]) + fine;
}
