/* Prompts from the command line. See segment_prompts.h. */
#include "train/segment_prompts.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "base/text.h"
#include "train/mask_input.h"

/* Numbers separated by commas; how many, or -1 if something is none or there are more than `max`.
 */
static int parse_numbers(const char *text, int max, double *out)
{
    char *copy = mem_string(text), *rest = copy;
    int n = 0;
    bool good = true;
    for (char *word; good && (word = strsep(&rest, ","));)
        good = n < max && text_to_double(word, &out[n++]);
    free(copy);
    return good ? n : -1;
}

static Status add_point(PromptSet *set, const char *text)
{
    double values[3] = {0, 0, 1};
    int n = parse_numbers(text, 3, values);
    if (n < 2 || (values[2] != 0 && values[2] != 1))
        return status_fail(E_CONFIG,
                           "point %s: wanted x,y or x,y,label, in px; label 1: part of "
                           "the object, 0: not",
                           text);
    if (set->n_points == PREDICTOR_MAX_TOKENS)
        return status_fail(E_CONFIG, "point %s: a prompt takes at most %d points", text,
                           PREDICTOR_MAX_TOKENS);
    memcpy(set->points[set->n_points], values, sizeof set->points[0]);
    set->labels[set->n_points++] = (int32_t)values[2];
    return OK;
}

static Status add_box(PromptSet *set, const char *text)
{
    double *box = set->box;
    if (set->has_box)
        return status_fail(E_CONFIG, "box %s: a prompt takes one box; give others with --prompt",
                           text);
    if (parse_numbers(text, 4, box) != 4 || box[0] >= box[2] || box[1] >= box[3])
        return status_fail(E_CONFIG, "box %s: wanted x0,y0,x1,y1 in px, x0 < x1 and y0 < y1", text);
    set->has_box = true;
    return OK;
}

static Status add_mask(PromptSet *set, const char *path)
{
    if (set->mask_path)
        return status_fail(E_CONFIG, "mask %s: a prompt takes one mask; give others with --prompt",
                           path);
    set->mask_path = mem_string(path);
    return OK;
}

static Status add_part(PromptSet *set, const char *part)
{
    if (strncmp(part, "point:", 6) == 0) return add_point(set, part + 6);
    if (strncmp(part, "box:", 4) == 0) return add_box(set, part + 4);
    if (strncmp(part, "mask:", 5) == 0) return add_mask(set, part + 5);
    return status_fail(
        E_CONFIG, "--prompt: got %s, wanted point:x,y[,label], box:x0,y0,x1,y1 or mask:FILE", part);
}

static PromptSet *add_set(PromptSets *sets)
{
    sets->items = mem_grow(sets->items, &sets->capacity, sets->n + 1, sizeof *sets->items);
    return &sets->items[sets->n++];
}

static Status add_prompt(PromptSets *sets, const char *text)
{
    PromptSet *set = add_set(sets);
    char *copy = mem_string(text), *rest = copy;
    Status status = OK;
    for (char *part; status == OK && (part = strsep(&rest, "+"));) status = add_part(set, part);
    free(copy);
    return status;
}

Status prompt_sets_parse(Args *args, PromptSets *out)
{
    PromptSet *own = add_set(out);
    const char *text;
    while ((text = args_flag(args, "point"))) TRY(add_point(own, text));
    while ((text = args_flag(args, "box"))) TRY(add_box(own, text));
    while ((text = args_flag(args, "mask-input"))) TRY(add_mask(own, text));
    if (own->n_points == 0 && !own->has_box && !own->mask_path) out->n--;
    while ((text = args_flag(args, "prompt"))) TRY(add_prompt(out, text));
    if (out->n > 0) return OK;
    return status_fail(E_CONFIG,
                       "no prompt: give --point=x,y or --box=x0,y0,x1,y1 or --mask-input=FILE");
}

void prompt_sets_free(PromptSets *sets)
{
    for (int i = 0; i < sets->n; i++) {
        free(sets->items[i].mask_path);
        free(sets->items[i].mask_input);
    }
    free(sets->items);
    *sets = (PromptSets){0};
}

static Status check_position(double x, double y, ImageSize image)
{
    if (x >= 0 && x <= (double)image.width && y >= 0 && y <= (double)image.height) return OK;
    return status_fail(E_CONFIG,
                       "the prompt at %g,%g lies outside the image of %lld x %lld px "
                       "(width x height)",
                       x, y, (long long)image.width, (long long)image.height);
}

Status prompt_sets_check(const PromptSets *sets, ImageSize image)
{
    for (int i = 0; i < sets->n; i++) {
        const PromptSet *set = &sets->items[i];
        for (int64_t p = 0; p < set->n_points; p++)
            TRY(check_position(set->points[p][0], set->points[p][1], image));
        if (!set->has_box) continue;
        TRY(check_position(set->box[0], set->box[1], image));
        TRY(check_position(set->box[2], set->box[3], image));
    }
    return OK;
}

Status prompt_sets_read_masks(PromptSets *sets, int64_t side)
{
    for (int i = 0; i < sets->n; i++) {
        PromptSet *set = &sets->items[i];
        if (set->mask_path) TRY(mask_input_read(set->mask_path, side, &set->mask_input));
    }
    return OK;
}

Prompt prompt_of(const PromptSet *set)
{
    return (Prompt){.n_points = set->n_points,
                    .points = &set->points[0][0],
                    .labels = set->labels,
                    .box = set->has_box ? set->box : NULL,
                    .mask_input = set->mask_input};
}
