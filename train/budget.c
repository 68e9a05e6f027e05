/* What a run will take. See budget.h. */
#include "train/budget.h"

#include <inttypes.h>

#include "train/run_state.h"

/* Bytes that a run of this config needs in all. */
static Status planned_bytes(const Recipe *recipe, int64_t words_per_image, const StepConfig *config,
                            size_t *out)
{
    Step *step = NULL;
    Plan *plan = NULL;
    TRY(step_build(config, recipe->model, recipe->store, words_per_image, &step));
    Status status = step_finish(step);
    if (status == OK) status = plan_build(step->graph, recipe->backend, &plan);
    if (status == OK)
        *out = plan->memory.total + (config->update ? snapshot_bytes(recipe->store) : 0);
    plan_destroy(plan);
    step_destroy(step);
    return status;
}

Status budget_fit(const Options *options, const Recipe *recipe, int64_t words_per_image,
                  StepConfig *config)
{
    bool choose = config->n_masks > 0 && config->mask_chunk == 0;
    if (choose)
        config->mask_chunk = config->n_masks < BUDGET_MAX_CHUNK ? config->n_masks
                                                                : BUDGET_MAX_CHUNK;
    if (options->run_memory_budget == 0) return OK;
    for (;; config->mask_chunk /= 2) {
        size_t bytes;
        TRY(planned_bytes(recipe, words_per_image, config, &bytes));
        if (bytes <= (size_t)options->run_memory_budget) return OK;
        if (!choose || config->mask_chunk == 1)
            return status_fail(
                E_MEMORY,
                "run.memory_budget = %" PRId64 " bytes, but %s needs %zu; give more, a smaller "
                "train.micro_batch, or modules to run.recompute",
                options->run_memory_budget, choose ? "one mask at a time" : "this run", bytes);
    }
}
