/* What a run will take. See budget.h. */
#include "train/budget.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "train/account.h"
#include "train/run_state.h"

typedef struct Fit { /* what is to fit, and what may be chosen */
    Options *options;
    const Recipe *recipe;
    int64_t words_per_image;
    bool saves;
    StepConfig *config;
} Fit;

/* ---- the plan ---- */

static Status build_step(const Fit *fit, Step **step)
{
    TRY(step_build(fit->config, fit->recipe->model, fit->recipe->store, fit->words_per_image,
                   step));
    Status status = step_finish(*step);
    if (status != OK) step_destroy(*step);
    return status;
}

/* Bytes that a run of this config needs in all. */
static Status planned_bytes(const Fit *fit, size_t *out)
{
    Step *step = NULL;
    Plan *plan = NULL;
    TRY(build_step(fit, &step));
    Status status = plan_build(step->graph, fit->recipe->backend, &plan);
    if (status == OK)
        *out = plan->memory.total + (fit->saves ? snapshot_bytes(fit->recipe->store) : 0);
    plan_destroy(plan);
    step_destroy(step);
    return status;
}

/* ---- blocks of the encoder ---- */

typedef struct Block {
    char path[256];
    double macs;        /* of its forward pass */
    int64_t kept_elems; /* of values made inside that the backward pass reads */
} Block;

typedef struct Blocks {
    Block *items;
    int n, capacity;
} Blocks;

static bool is_inside(const char *label, const char *path)
{
    size_t n = strlen(path);
    return strncmp(label, path, n) == 0 && (label[n] == '\0' || label[n] == '.');
}

/* Whether no other module lies inside module `index`. */
static bool is_leaf(const Graph *graph, int index)
{
    for (int i = 0; i < graph->n_modules; i++)
        if (i != index && is_inside(graph->modules[i].path, graph->modules[index].path))
            return false;
    return true;
}

static void count_block(const Plan *plan, const Graph *graph, const bool *read_backwards,
                        Block *block)
{
    for (NodeId n = 0; n < graph->n_nodes; n++) {
        const Node *node = &graph->nodes[n];
        if (node->backward || node->dead || !is_inside(node->label, block->path)) continue;
        block->macs += account_call_macs(&plan->calls[n]);
        for (int i = 0; i < node->n_dst; i++)
            if (read_backwards[node->dst[i]])
                block->kept_elems += shape_elems(graph_value(graph, node->dst[i])->shape);
    }
}

/* Those first that cost least for what they free. */
static int by_cost(const void *a, const void *b)
{
    const Block *x = a, *y = b;
    double x_cost = x->macs / (double)x->kept_elems, y_cost = y->macs / (double)y->kept_elems;
    return x_cost != y_cost ? (x_cost > y_cost ? 1 : -1) : strcmp(x->path, y->path);
}

static void collect_blocks(const Plan *plan, const Graph *graph, Blocks *blocks)
{
    bool *read_backwards = mem_alloc((size_t)graph->n_values * sizeof(bool));
    for (NodeId n = 0; n < graph->n_nodes; n++)
        for (int s = 0; graph->nodes[n].backward && s < graph->nodes[n].n_src; s++)
            read_backwards[graph->nodes[n].src[s]] = true;
    for (int i = 0; i < graph->n_modules; i++) {
        Block block = {0};
        if (!is_inside(graph->modules[i].path, "image_encoder") || !is_leaf(graph, i)) continue;
        snprintf(block.path, sizeof block.path, "%s", graph->modules[i].path);
        count_block(plan, graph, read_backwards, &block);
        if (block.kept_elems == 0) continue;
        blocks->items = mem_grow(blocks->items, &blocks->capacity, blocks->n + 1, sizeof block);
        blocks->items[blocks->n++] = block;
    }
    qsort(blocks->items, (size_t)blocks->n, sizeof *blocks->items, by_cost);
    free(read_backwards);
}

/* ---- choices ---- */

/* The first n blocks as run.recompute, and what the run then takes. */
static Status recompute_first(const Fit *fit, const Blocks *blocks, int n, size_t *bytes)
{
    char *text = mem_alloc((size_t)n * sizeof(Block) + 1);
    for (int i = 0, used = 0; i < n; i++)
        used += sprintf(text + used, "%s%s", i ? "," : "", blocks->items[i].path);
    Status status = options_set(fit->options, OPTION_run_recompute, text);
    free(text);
    fit->config->n_recompute = fit->options->run_recompute.n;
    fit->config->recompute = (const char *const *)fit->options->run_recompute.items;
    return status == OK ? planned_bytes(fit, bytes) : status;
}

/* As few blocks as fit, by halving: the more are computed again, the less is kept. */
static Status fewest_blocks(const Fit *fit, const Blocks *blocks, size_t *bytes)
{
    size_t budget = (size_t)fit->options->run_memory_budget;
    int too_few = 0, enough = blocks->n;
    TRY(recompute_first(fit, blocks, enough, bytes));
    if (*bytes > budget) return OK;
    while (enough - too_few > 1) {
        int middle = (too_few + enough) / 2;
        TRY(recompute_first(fit, blocks, middle, bytes));
        *(*bytes <= budget ? &enough : &too_few) = middle;
    }
    return recompute_first(fit, blocks, enough, bytes);
}

static Status fit_blocks(const Fit *fit, size_t *bytes)
{
    Blocks blocks = {0};
    Step *step = NULL;
    Plan *plan = NULL;
    TRY(build_step(fit, &step));
    Status status = plan_build(step->graph, fit->recipe->backend, &plan);
    if (status == OK) collect_blocks(plan, step->graph, &blocks);
    plan_destroy(plan);
    step_destroy(step);
    if (status == OK && blocks.n > 0) status = fewest_blocks(fit, &blocks, bytes);
    free(blocks.items);
    return status;
}

/* Halves the chunk, if it is free, until the plan fits or there is one mask at a time. */
static Status fit_chunk(const Fit *fit, bool is_free, size_t *bytes)
{
    for (;; fit->config->mask_chunk /= 2) {
        TRY(planned_bytes(fit, bytes));
        bool fits = *bytes <= (size_t)fit->options->run_memory_budget;
        if (fits || !is_free || fit->config->mask_chunk == 1) return OK;
    }
}

Status budget_fit(Options *options, const Recipe *recipe, int64_t words_per_image, bool saves,
                  StepConfig *config)
{
    Fit fit = {options, recipe, words_per_image, saves, config};
    bool is_free = config->n_masks > 0 && config->mask_chunk == 0;
    size_t bytes = 0, budget = (size_t)options->run_memory_budget;
    if (is_free)
        config->mask_chunk = config->n_masks < BUDGET_MAX_CHUNK ? config->n_masks
                                                                : BUDGET_MAX_CHUNK;
    if (budget == 0) return OK;
    TRY(fit_chunk(&fit, is_free, &bytes));
    if (bytes > budget && config->update && options->run_recompute.n == 0)
        TRY(fit_blocks(&fit, &bytes));
    if (bytes <= budget) return OK;
    return status_fail(E_MEMORY,
                       "run.memory_budget = %zu bytes, but %s needs %zu; give more, or a smaller "
                       "train.micro_batch",
                       budget, is_free ? "one mask at a time" : "this run", bytes);
}

void budget_print(FILE *out, const StepConfig *config)
{
    for (int i = 0; i < config->n_recompute; i++)
        fprintf(out, "%s%s", i ? ", " : "  computed again in the backward pass: ",
                config->recompute[i]);
    if (config->n_recompute > 0) fprintf(out, "\n");
}
