/* `retort plan`: what a run takes on GPUs that need not be here: memory of each, time, disk.
 *
 *   retort plan CONFIG --gpu=a100-80g [--gpus=N] [--kind=distill|finetune|teach] [--images=N]
 *               [--loader-ms=T] [--json=F] [--key=value ..]
 *
 * Memory is that of the very step that would be trained, placed as on CUDA (backend "plan"); on top
 * come what no plan can know, as allowances: RESERVE_MIB for the driver's context and the
 * libraries' code, COMM_MIB for NCCL's channels (32 of them, 2 buffers of 4 MiB), and in the
 * scratch the libraries' workspaces. Time is the roofline's (train/roofline.h): a bound that real
 * steps stay above. Needs no GPU, no toolkit, no data and no weights.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "data/json_writer.h"
#include "data/embedding_shard.h"
#include "kernels/backend.h"
#include "train/account.h"
#include "train/budget.h"
#include "train/commands.h"
#include "train/ranks.h"
#include "train/recipe.h"
#include "train/roofline.h"

static const char usage[] =
    "retort plan CONFIG --gpu=NAME [--gpus=N] [--kind=distill|finetune|teach] [--images=N] "
    "[--loader-ms=T] [--json=F] [--key=value ..]";

enum { RESERVE_MIB = 1536, COMM_MIB = 256, SA1B_IMAGES = 11185362, LARGE_IMAGE_PX = 512 };
/* a sample on one core, up to LARGE_IMAGE_PX and above */
enum { LOADER_MS = 15, LOADER_LARGE_MS = 20 };

typedef enum PlanKind { PLAN_DISTILL, PLAN_FINETUNE, PLAN_TEACH } PlanKind;
static const char *const kind_names[] = {"distill", "finetune", "teach"};

typedef struct Planned { /* one way to run the step */
    Step *step;
    Plan *plan;
    double needed_mib;
} Planned;

typedef struct Job {
    const char *config, *json; /* NULL: no file */
    PlanKind kind;
    RooflineMachine machine;
    int64_t n_images;
    double loader_ms;
    Options options;
    Recipe recipe;
    StepConfig step_config;
    int64_t words_per_image;
    Planned planned; /* what is told */
    bool fits;
    int64_t better_micro; /* of a plan that fits where the config's does not; 0: none */
    double better_mib;
    Roofline time;
} Job;

static double mib(size_t bytes) { return (double)bytes / (1 << 20); }

/* ---- memory ---- */

static void planned_free(Planned *planned)
{
    plan_destroy(planned->plan);
    step_destroy(planned->step);
    *planned = (Planned){0};
}

static double comm_mib(const Job *job) { return job->machine.n_gpus > 1 ? COMM_MIB : 0; }

static Status plan_step(const Job *job, const StepConfig *config, Planned *out)
{
    bool teaches = job->kind == PLAN_TEACH;
    const Model *model = teaches ? job->recipe.teacher : job->recipe.model;
    Store *store = teaches ? job->recipe.teacher_store : job->recipe.store;
    *out = (Planned){0};
    TRY(step_build(config, model, store, job->words_per_image, &out->step));
    if (teaches) graph_output(out->step->graph, out->step->embedding, "embedding");
    Status status = step_finish(out->step);
    if (status == OK) status = plan_build(out->step->graph, job->recipe.backend, &out->plan);
    if (status != OK)
        planned_free(out);
    else
        out->needed_mib = mib(out->plan->memory.total) + comm_mib(job) + RESERVE_MIB;
    return status;
}

static bool fits(const Job *job, const Planned *planned)
{
    return planned->needed_mib <= job->machine.gpu->memory_mib;
}

/* The most masks at a time that fit; the plan of the fewest if none does. */
static Status plan_chunks(const Job *job, StepConfig *config, Planned *out)
{
    bool choose = config->n_masks > 0 && config->mask_chunk == 0;
    if (choose)
        config->mask_chunk = config->n_masks < BUDGET_MAX_CHUNK ? config->n_masks
                                                                : BUDGET_MAX_CHUNK;
    for (;; config->mask_chunk /= 2) {
        TRY(plan_step(job, config, out));
        if (fits(job, out) || !choose || config->mask_chunk == 1) return OK;
        planned_free(out);
    }
}

/* The largest smaller micro-batch that fits. */
static Status find_better(Job *job)
{
    for (int64_t micro = job->step_config.micro_batch - 1; micro > 0; micro--) {
        if (job->step_config.batch % micro != 0) continue;
        StepConfig config = job->step_config;
        Planned planned;
        config.micro_batch = micro;
        config.mask_chunk = job->options.run_mask_chunk;
        if (config.teacher_micro > micro) config.teacher_micro = 1;
        Status status = plan_chunks(job, &config, &planned);
        if (status == E_UNSUPPORTED) continue; /* more elements than kernels count */
        TRY(status);
        bool good = fits(job, &planned);
        if (good) {
            job->better_micro = micro;
            job->better_mib = planned.needed_mib;
        }
        planned_free(&planned);
        if (good) return OK;
    }
    return OK;
}

/* The refusal of a step that no GPU would take, with a micro-batch that one would. */
static Status refuse(Job *job, Status status)
{
    char why[512];
    snprintf(why, sizeof why, "%s", status_message());
    TRY(find_better(job));
    if (job->better_micro == 0) return status_fail(status, "%s", why);
    return status_fail(status, "%s; with --train.micro_batch=%" PRId64 " it takes %.0f MiB", why,
                       job->better_micro, job->better_mib);
}

static Status check_kind(const Job *job)
{
    if (job->kind != PLAN_FINETUNE && !job->recipe.teacher)
        return status_fail(E_CONFIG, "--kind=%s needs teacher.model; name a model description",
                           kind_names[job->kind]);
    return OK;
}

static Status plan_memory(Job *job)
{
    static const StepKind kinds[] = {STEP_DISTILL, STEP_FINETUNE, STEP_ENCODE};
    StepConfig *config = &job->step_config;
    recipe_step_config(&job->recipe, &job->options, kinds[job->kind], config);
    config->world_size = job->machine.n_gpus;
    if (job->kind == PLAN_TEACH) {
        config->batch = config->micro_batch = 1;
        config->world_size = 1;
    }
    job->words_per_image =
        recipe_loader_config(&job->recipe, &job->options, kinds[job->kind]).mask_words;
    Status status = plan_chunks(job, config, &job->planned);
    if (status == E_UNSUPPORTED) return refuse(job, status);
    TRY(status);
    job->fits = fits(job, &job->planned);
    return job->fits ? OK : find_better(job);
}

/* ---- time and disk ---- */

static int64_t views_per_image(const Job *job) { return job->options.data_flip > 0 ? 2 : 1; }

/* Images of all GPUs in one step; of `teach`, views. */
static double global_batch(const Job *job)
{
    return (double)job->step_config.batch * job->machine.n_gpus;
}

static double n_steps(const Job *job)
{
    const Options *o = &job->options;
    double images = (double)job->n_images;
    if (job->kind == PLAN_TEACH) return images * (double)views_per_image(job) / global_batch(job);
    return o->train_steps > 0 ? (double)o->train_steps
                              : o->train_epochs * images / global_batch(job);
}

/* Seconds that the loader's threads of one GPU need for its part of a step. `teach` decodes on its
 * one thread. */
static double loader_seconds(const Job *job)
{
    bool teaches = job->kind == PLAN_TEACH;
    double threads = teaches || job->options.data_threads < 1 ? 1
                                                              : (double)job->options.data_threads;
    double images = (double)job->step_config.batch / (teaches ? (double)views_per_image(job) : 1);
    return 1e-3 * job->loader_ms * images / threads;
}

/* Loading and computing overlap; `teach` does one after the other. */
static double step_seconds(const Job *job)
{
    double load = loader_seconds(job);
    if (job->kind == PLAN_TEACH) return job->time.step + load;
    return load > job->time.step ? load : job->time.step;
}

static double hours(const Job *job) { return n_steps(job) * step_seconds(job) / 3600; }

static double embedding_bytes(const Job *job)
{
    const Model *teacher = job->recipe.teacher;
    EmbeddingForm form = {.dtype = (EmbeddingDType)job->options.teach_dtype,
                          .cells = model_grid(teacher) * model_grid(teacher),
                          .dim = model_embed_dim(teacher)};
    return (double)embedding_plain_bytes(&form) * (double)(views_per_image(job) * job->n_images);
}

/* ---- telling ---- */

static void print_memory(const Job *job)
{
    const PlanMemory *m = &job->planned.plan->memory;
    const struct {
        const char *what;
        double mib;
    } rows[] = {{"parameters", mib(m->parameters)},
                {"buffers", mib(m->buffers)},
                {"optimizer state", mib(m->optimizer)},
                {"ema", mib(m->ema)},
                {"gradients", mib(m->gradients)},
                {"inputs", mib(m->inputs)},
                {"activations and scratch", mib(m->activations)},
                {"communication (NCCL)", comm_mib(job)},
                {"driver and libraries", RESERVE_MIB},
                {"needed", job->planned.needed_mib}};
    printf("memory of each GPU (MiB, of %.0f); largest scratch of one op %.1f, inside the "
           "activations\n",
           job->machine.gpu->memory_mib, mib(m->scratch));
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        if (rows[i].mib > 0) printf("  %-24s %10.1f\n", rows[i].what, rows[i].mib);
}

static void print_step(const Job *job)
{
    const Roofline *t = &job->time;
    const StepConfig *c = &job->step_config;
    printf("each GPU takes %" PRId64 " images a step, %" PRId64 " at a time", c->batch,
           c->micro_batch);
    if (c->n_masks > 0)
        printf(", with %" PRId64 " of their %" PRId64 " masks at a time", c->mask_chunk,
               c->n_masks);
    printf("\na step at the least (roofline; a real one takes longer), ms\n");
    printf("  %-24s %10.2f  (%.2f TMAC)\n", "arithmetic alone", 1e3 * t->compute, 1e-12 * t->macs);
    printf("  %-24s %10.2f\n", "memory alone", 1e3 * t->memory);
    printf("  %-24s %10.2f\n", "kernel by kernel", 1e3 * t->kernels);
    if (job->machine.n_gpus > 1)
        printf("  %-24s %10.2f  at %.1f GB/s, %.2f of it hidden\n", "all-reduce", 1e3 * t->reduce,
               roofline_link_gb_s(&job->machine), 1e3 * (t->reduce - t->exposed));
    printf("  %-24s %10.2f  at %.0f ms a sample and thread\n", "loading", 1e3 * loader_seconds(job),
           job->loader_ms);
    printf("  %-24s %10.2f  %.1f images/s on all GPUs, limited by %s\n", "step",
           1e3 * step_seconds(job), global_batch(job) / step_seconds(job),
           job->kind == PLAN_TEACH                ? "computing and loading in turn"
           : loader_seconds(job) > job->time.step ? "loading: raise data.threads"
           : t->exposed > 0.1 * t->kernels        ? "the links"
                                                  : "the GPU");
}

static void print_run(const Job *job)
{
    if (n_steps(job) < 1)
        printf("run: no length; set train.steps or train.epochs\n");
    else
        printf("run: %.0f steps of %.0f images over a set of %" PRId64
               ": %.1f hours at the least\n",
               n_steps(job), global_batch(job), job->n_images, hours(job));
    if (job->recipe.teacher)
        printf("embeddings in files (teach.dtype=%s, %" PRId64 " views, before zstd): %.2f TB\n",
               embedding_dtype_names[job->options.teach_dtype], views_per_image(job),
               1e-12 * embedding_bytes(job));
}

static Status verdict(const Job *job)
{
    double have = job->machine.gpu->memory_mib, need = job->planned.needed_mib;
    if (job->fits) {
        printf("it fits: %.0f MiB of %.0f are needed\n", need, have);
        return OK;
    }
    if (job->better_micro > 0)
        return status_fail(E_MEMORY,
                           "it does not fit: %.0f MiB are needed, %s has %.0f; with "
                           "--train.micro_batch=%" PRId64
                           " it takes %.0f (batch norms then see %" PRId64 " images)",
                           need, job->machine.gpu->name, have, job->better_micro, job->better_mib,
                           job->better_micro);
    return status_fail(E_MEMORY,
                       "it does not fit: %.0f MiB are needed, %s has %.0f; use %sa GPU with more "
                       "memory, a smaller model, or name modules in run.recompute",
                       need, job->machine.gpu->name, have,
                       job->step_config.teacher ? "embeddings in files (teacher.embeddings), "
                                                : "");
}

/* Of matrix products in the run's precision. */
static double peak_tflops(const Job *job)
{
    const Gpu *gpu = job->machine.gpu;
    if (job->step_config.precision != DT_F32) return gpu->low_tflops;
    return job->machine.tf32 ? gpu->tf32_tflops : gpu->f32_tflops;
}

static Status write_json(const Job *job)
{
    const PlanMemory *m = &job->planned.plan->memory;
    JsonWriter *json = json_writer_create();
    json_writer_object(json, NULL);
    json_writer_text(json, "kind", kind_names[job->kind]);
    json_writer_text(json, "gpu", job->machine.gpu->name);
    json_writer_integer(json, "gpus", job->machine.n_gpus);
    json_writer_text(json, "precision", dtype_name(job->step_config.precision));
    json_writer_integer(json, "batch", job->step_config.batch);
    json_writer_integer(json, "micro_batch", job->step_config.micro_batch);
    json_writer_integer(json, "mask_chunk", job->step_config.mask_chunk);
    json_writer_integer(json, "planned_bytes", (int64_t)m->total);
    json_writer_number(json, "needed_mib", job->planned.needed_mib);
    json_writer_number(json, "memory_mib", job->machine.gpu->memory_mib);
    json_writer_number(json, "macs", job->time.macs);
    json_writer_number(json, "peak_tflops", peak_tflops(job));
    json_writer_number(json, "kernels_ms", 1e3 * job->time.kernels);
    json_writer_number(json, "reduce_ms", 1e3 * job->time.reduce);
    json_writer_number(json, "exposed_ms", 1e3 * job->time.exposed);
    json_writer_number(json, "loader_ms", 1e3 * loader_seconds(job));
    json_writer_number(json, "step_ms", 1e3 * step_seconds(job));
    json_writer_number(json, "steps", n_steps(job));
    json_writer_number(json, "hours", hours(job));
    json_writer_number(json, "embedding_bytes", job->recipe.teacher ? embedding_bytes(job) : 0);
    json_writer_end(json);
    return json_writer_commit(json, job->json);
}

/* ---- the command ---- */

static Status find_kind(const char *name, Job *job)
{
    if (!name) {
        job->kind = job->options.teacher_model[0] ? PLAN_DISTILL : PLAN_FINETUNE;
        return OK;
    }
    for (int i = 0; i < 3; i++)
        if (strcmp(kind_names[i], name) == 0) {
            job->kind = (PlanKind)i;
            return OK;
        }
    return status_fail(E_CONFIG, "unknown --kind=%s; usage: %s", name, usage);
}

static int64_t loaded_px(const Job *job)
{
    bool large = job->kind == PLAN_TEACH || job->step_config.teacher;
    return model_image_size(large ? job->recipe.teacher : job->recipe.model);
}

static Status parse(Args *args, Job *job)
{
    const char *gpu, *kind = args_flag(args, "kind");
    int64_t n_gpus;
    job->config = args_positional(args);
    if (!job->config) return status_fail(E_CONFIG, "name a config; usage: %s", usage);
    TRY(args_need(args, "gpu", usage, &gpu));
    TRY(gpus_find(gpu, &job->machine.gpu));
    TRY(args_int(args, "gpus", 1, 1, 65536, &n_gpus));
    TRY(args_int(args, "images", SA1B_IMAGES, 1, (int64_t)1e12, &job->n_images));
    TRY(args_double(args, "loader-ms", 0, &job->loader_ms));
    job->machine.n_gpus = (int)n_gpus;
    job->json = args_flag(args, "json");
    TRY(options_load(job->config, args->n, args->words, &job->options));
    job->machine.tf32 = job->options.run_tf32;
    TRY(find_kind(kind, job));
    TRY(options_set(&job->options, OPTION_run_backend, "plan"));
    return ranks_divide_batch(&job->options, (int)n_gpus);
}

static Status run(Args *args, Job *job)
{
    TRY(parse(args, job));
    TRY(recipe_open(&job->options, &job->recipe));
    TRY(check_kind(job));
    TRY(plan_memory(job));
    if (job->loader_ms <= 0)
        job->loader_ms = loaded_px(job) > LARGE_IMAGE_PX ? LOADER_LARGE_MS : LOADER_MS;
    job->time = roofline_step(job->planned.step->graph, job->planned.plan, &job->machine);
    const Model *model = job->kind == PLAN_TEACH ? job->recipe.teacher : job->recipe.model;
    printf("%s of %s in %s on %d x %s\n", kind_names[job->kind], model_name(model),
           dtype_name(job->step_config.precision), job->machine.n_gpus, job->machine.gpu->title);
    print_memory(job);
    print_step(job);
    print_run(job);
    if (job->json) TRY(write_json(job));
    return verdict(job);
}

Status command_plan(Args *args)
{
    Job job = {0};
    Status status = run(args, &job);
    planned_free(&job.planned);
    recipe_close(&job.recipe);
    options_free(&job.options);
    return status;
}
