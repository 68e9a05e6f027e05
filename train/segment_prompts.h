/* The prompts of `retort segment`, from the command line. */
#ifndef RETORT_TRAIN_SEGMENT_PROMPTS_H
#define RETORT_TRAIN_SEGMENT_PROMPTS_H

#include "data/resize.h"
#include "train/args.h"
#include "train/predictor.h"

typedef struct PromptSet { /* memory behind a Prompt; zero-initialise */
    double points[PREDICTOR_MAX_TOKENS][2], box[4];
    int32_t labels[PREDICTOR_MAX_TOKENS];
    int64_t n_points;
    bool has_box;
    char *mask_path;   /* of a mask prompt, or NULL */
    float *mask_input; /* (lowres,lowres) logits, once they are read */
} PromptSet;

typedef struct PromptSets { /* zero-initialise */
    PromptSet *items;
    int n, capacity;
} PromptSets;

/* prompt_sets_parse: takes --point=x,y[,label], --box=x0,y0,x1,y1, --mask-input=FILE (together one
 * set, the first) and each --prompt=PART[+PART..] (one set each; a PART is point:x,y[,label],
 * box:x0,y0,x1,y1 or mask:FILE).
 * errors  E_CONFIG quoting the part that is wrong; or if there is no prompt at all */
Status prompt_sets_parse(Args *args, PromptSets *out);
void prompt_sets_free(PromptSets *sets);

/* prompt_sets_check: errors  E_CONFIG naming the first coordinate outside the image */
Status prompt_sets_check(const PromptSets *sets, ImageSize image);

/* prompt_sets_read_masks: reads the mask prompts, for a model whose low-resolution masks are of
 * `side` px. errors  those of mask_input_read */
Status prompt_sets_read_masks(PromptSets *sets, int64_t side);

/* prompt_of: the set as the predictor takes it; points into it. */
Prompt prompt_of(const PromptSet *set);

#endif
