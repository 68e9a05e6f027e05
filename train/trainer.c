/* The training loop. See trainer.h.
 *
 * One step: take a batch, write the inputs, run the graph, read three scalars, log, perhaps save.
 * All that a step does beyond that is inside the graph. What makes a run go on bit for bit is in
 * the state: the store, and the number of steps done, of which order, draws, mode and learning rate
 * are functions.
 */
#include "train/trainer.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

#include "base/memory.h"
#include "train/account.h"
#include "train/budget.h"
#include "train/embeddings.h"
#include "train/feed.h"
#include "train/log.h"
#include "train/profile.h"
#include "train/progress.h"
#include "train/recipe.h"
#include "train/run_folder.h"
#include "train/saver.h"
#include "train/scaler.h"
#include "train/stop.h"
#include "train/tensorboard.h"
#include "train/validation.h"
#include "train/weights.h"

typedef struct Trainer {
    Options *options;
    StepKind kind;
    Recipe recipe;
    StepConfig config;
    LoaderConfig loader_config;
    Source *source;
    Loader *loader;
    EmbeddingCache *embeddings; /* NULL: the teacher runs in the step */
    RunFolder *folder;
    Log *log;
    Tensorboard *board;
    Progress *progress; /* NULL: stderr is no terminal */
    Saver *saver;
    Validation *validation; /* NULL: val.root is not set */
    Step *step;
    Exec *exec;
    Scaler scaler;
    const FileOps *ops; /* for states, config and result */
    int64_t next_step, n_steps;
    double wait_seconds; /* of all steps so far */
} Trainer;

typedef struct StepResult {
    float loss, grad_norm, ok;
    double lr, seconds, wait_seconds;
} StepResult;

static double now_seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int64_t peak_rss_bytes(void)
{
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return (int64_t)usage.ru_maxrss * 1024;
}

/* ---- opening ---- */

static Status open_data(Trainer *t)
{
    const Options *o = t->options;
    TRY(recipe_open_source(o, t->kind == STEP_FINETUNE, o->run_dir[0] ? o->run_dir : NULL,
                           &t->source));
    t->n_steps = o->train_steps;
    if (t->n_steps == 0)
        t->n_steps = (int64_t)(o->train_epochs * (double)source_epoch_size(t->source) /
                               (double)o->train_batch);
    if (t->n_steps < 1)
        return status_fail(E_CONFIG,
                           "the run has no step: set train.steps, or train.epochs to more");
    if (t->kind != STEP_DISTILL || o->teacher_embeddings[0] == '\0') return OK;
    return embeddings_open(o, &t->recipe, t->source, &t->embeddings);
}

static Status open_step(Trainer *t)
{
    const Options *o = t->options;
    recipe_step_config(&t->recipe, o, t->kind, &t->config);
    if (t->kind == STEP_DISTILL && !t->config.teacher && !t->embeddings)
        return status_fail(
            E_CONFIG,
            "distillation needs teacher.model and teacher.weights, or teacher.embeddings");
    t->loader_config = recipe_loader_config(&t->recipe, o, t->kind);
    t->loader_config.embeddings = t->embeddings;
    TRY(budget_fit(o, &t->recipe, t->loader_config.mask_words, &t->config));
    TRY(step_build(&t->config, t->recipe.model, t->recipe.store, t->loader_config.mask_words,
                   &t->step));
    TRY(step_finish(t->step));
    TRY(scaler_declare(&t->scaler, t->recipe.store, t->config.precision));
    return store_allocate(t->recipe.store);
}

/* The distilled encoder is saved inside a complete SAM: the teacher's prompt encoder and mask
 * decoder. */
static Status adopt_decoder(Trainer *t)
{
    TRY(weights_copy(t->recipe.store, t->recipe.teacher_store, "prompt_encoder."));
    return weights_copy(t->recipe.store, t->recipe.teacher_store, "mask_decoder.");
}

/* From the newest state that is whole. A damaged one is named, and the one before it taken; states
 * of a run with other settings are whole, and stop the run. */
static Status load_newest(Trainer *t, StateHeader *header)
{
    const RunFolder *folder = t->folder;
    char newest[512];
    for (int i = 0; i < folder->n_resume_from; i++) {
        Status status = run_state_load(t->recipe.store, folder->resume_from[i], header);
        if (status == OK)
            log_text(t->log, LOG_INFO, "resumed %s at step %" PRId64, folder->resume_from[i],
                     header->step);
        if (status != E_FORMAT || folder->n_resume_from == 1) return status;
        log_text(t->log, LOG_WARN, "%s; trying the state before it", status_message());
        if (i == 0) snprintf(newest, sizeof newest, "%s", status_message());
    }
    return status_fail(E_FORMAT, "%s: none of its %d states is whole; of the newest: %s",
                       folder->checkpoints, folder->n_resume_from, newest);
}

static Status load_state(Trainer *t)
{
    StateHeader header;
    TRY(load_newest(t, &header));
    t->next_step = header.step;
    if (header.step > t->n_steps)
        return status_fail(E_CONFIG,
                           "run.dir=%s: the run did %" PRId64 " steps, but is to have %" PRId64
                           "; set train.steps, or choose another folder",
                           t->folder->path, header.step, t->n_steps);
    if (header.n_threads != t->recipe.backend->n_threads)
        log_text(t->log, LOG_WARN,
                 "not bit-exact: the state is of a run with %d compute threads, this one has %d",
                 header.n_threads, t->recipe.backend->n_threads);
    return OK;
}

/* A teacher that no step runs (its embeddings are in files) is only needed for its decoder, at the
 * start. */
static Status load_start(Trainer *t)
{
    bool resumes = t->folder->n_resume_from > 0;
    bool teaches = t->kind == STEP_DISTILL && t->recipe.teacher && (t->config.teacher || !resumes);
    if (teaches) TRY(recipe_load_teacher(&t->recipe, t->options));
    if (resumes) return load_state(t);
    TRY(recipe_load_weights(&t->recipe, t->options));
    TRY(scaler_init(&t->scaler));
    if (!teaches) return OK;
    TRY(adopt_decoder(t));
    if (!t->config.teacher) {
        store_destroy(t->recipe.teacher_store);
        t->recipe.teacher_store = NULL;
    }
    return OK;
}

static void announce(Trainer *t)
{
    options_print_preset(t->options, stderr);
    if (t->folder->changes[0]) fprintf(stderr, "%s", t->folder->changes);
    account_memory(stderr, exec_plan(t->exec));
    fprintf(stderr, "  %-24s %10.1f\n", "copy for saving, beside it",
            (double)snapshot_bytes(t->recipe.store) / (1024.0 * 1024.0));
    log_text(t->log, LOG_INFO,
             "%s: %" PRId64 " samples, %" PRId64 " steps of %" PRId64
             " images, backend %s, %s, %d threads, "
             "seed %" PRId64,
             model_name(t->recipe.model), source_size(t->source), t->n_steps, t->config.batch,
             t->recipe.backend->name, dtype_name(t->config.precision), t->recipe.backend->n_threads,
             t->options->seed);
    if (t->kind == STEP_FINETUNE)
        log_text(t->log, LOG_INFO, "%" PRId64 " masks per image, %" PRId64 " at a time",
                 t->config.n_masks, t->config.mask_chunk);
}

/* What was chosen automatically is pinned in the resolved config. */
static Status pin_choices(Trainer *t)
{
    char text[32];
    snprintf(text, sizeof text, "%" PRId64, t->n_steps);
    TRY(options_set(t->options, OPTION_train_epochs, "0"));
    TRY(options_set(t->options, OPTION_train_steps, text));
    snprintf(text, sizeof text, "%d", t->recipe.backend->n_threads);
    TRY(options_set(t->options, OPTION_run_threads, text));
    if (t->kind != STEP_FINETUNE) return OK;
    snprintf(text, sizeof text, "%" PRId64, t->config.mask_chunk);
    return options_set(t->options, OPTION_run_mask_chunk, text);
}

static Status open_board(Trainer *t)
{
    char *folder = file_join(t->folder->path, "tensorboard");
    Status status = tensorboard_open(folder, t->next_step, &t->board);
    free(folder);
    return status;
}

static Status open_run(Trainer *t)
{
    TRY(run_folder_open(t->ops, t->options, &t->folder));
    TRY(log_open(stderr, t->folder->log_path, &t->log));
    if (t->folder->lost) log_text(t->log, LOG_WARN, "%s", t->folder->lost);
    return load_start(t);
}

static bool is_done(const Trainer *t) { return t->folder->done && t->next_step == t->n_steps; }

/* Nothing of the run is changed before this. */
static Status begin_run(Trainer *t)
{
    TRY(exec_create(t->step->graph, t->recipe.backend, &t->exec));
    TRY(loader_create(t->source, &t->loader_config, t->next_step, &t->loader));
    TRY(run_folder_begin(t->folder, t->options, t->next_step));
    TRY(log_rewind(t->log, t->next_step));
    TRY(open_board(t));
    TRY(saver_open(t->folder, t->recipe.store, t->log,
                   t->folder->n_resume_from > 0 ? t->next_step : -1, &t->saver));
    announce(t);
    t->progress = progress_open(stderr, t->next_step, t->n_steps);
    log_attach(t->log, t->progress);
    return OK;
}

static Status open_all(Trainer *t)
{
    TRY(recipe_open(t->options, &t->recipe));
    TRY(open_data(t));
    TRY(open_step(t));
    TRY(validation_open(t->options, &t->recipe, t->kind, &t->validation));
    TRY(pin_choices(t));
    return open_run(t);
}

/* From here on, stderr is free for tables and errors. */
static void end_progress(Trainer *t)
{
    if (t->log) log_attach(t->log, NULL);
    progress_close(t->progress);
    t->progress = NULL;
}

static void close_all(Trainer *t)
{
    end_progress(t);
    saver_close(t->saver);
    validation_close(t->validation);
    loader_destroy(t->loader);
    exec_destroy(t->exec);
    step_destroy(t->step);
    embedding_cache_close(t->embeddings);
    source_close(t->source);
    recipe_close(&t->recipe);
    tensorboard_close(t->board);
    log_close(t->log);
    run_folder_close(t->folder);
}

/* ---- saving ---- */

/* The state after `next_step` updates; see saver_save for `score`. */
static Status save_state(Trainer *t, double score)
{
    char *config = options_text(t->options);
    StateHeader header = {.step = t->next_step,
                          .data_position = t->next_step * t->config.batch,
                          .seed = (uint64_t)t->options->seed,
                          .n_threads = t->recipe.backend->n_threads,
                          .world_size = 1,
                          .config = config};
    Status status = saver_save(t->saver, &header, score);
    free(config);
    return status;
}

static bool save_is_due(const Trainer *t)
{
    int64_t milestone = t->options->run_milestone_every;
    return t->next_step % t->options->run_save_every == 0 ||
           (milestone > 0 && t->next_step % milestone == 0);
}

/* What the run was for, and only then the mark that it is done. */
static Status save_result(Trainer *t)
{
    TRY(save_state(t, NAN));
    TRY(saver_wait(t->saver));
    char *path = file_join(t->folder->path, "model.safetensors");
    Status status = weights_save(t->ops, t->recipe.store, path);
    if (status == OK) log_text(t->log, LOG_INFO, "wrote %s", path);
    free(path);
    return status == OK ? run_folder_finish(t->folder, t->n_steps) : status;
}

/* ---- a step ---- */

static Status feed(Trainer *t, const Batch *batch, double lr)
{
    TRY(feed_batch(t->step, t->exec, batch, recipe_mode(t->options, t->next_step)));
    if (t->embeddings) TRY(exec_write(t->exec, t->step->target, batch->embedding));
    TRY(feed_scalar(t->exec, t->step->lr, lr));
    return feed_scalar(t->exec, t->step->loss_scale, scaler_scale(&t->scaler));
}

static Status read_result(Trainer *t, StepResult *result)
{
    TRY(exec_read(t->exec, t->step->loss, &result->loss));
    TRY(exec_read(t->exec, t->step->norm, &result->grad_norm));
    return exec_read(t->exec, t->step->ok, &result->ok);
}

/* The update of a bad step was not applied, so running it again shows where the first bad number
 * arose. */
static Status explain_bad_step(Trainer *t, const Batch *batch, const StepResult *result)
{
    char ids[400] = "", why[512], last[64];
    size_t used = 0;
    for (int64_t i = 0; i < t->config.batch && used + 24 < sizeof ids; i++)
        used += (size_t)snprintf(ids + used, sizeof ids - used, "%s%" PRIu64, i ? ", " : "",
                                 batch->sample_id[i]);
    TRY(saver_wait(t->saver));
    Status status = exec_run_checked(t->exec);
    if (status == OK)
        snprintf(why, sizeof why, "the sum of squares of the gradients overflows");
    else
        snprintf(why, sizeof why, "%s", status_message());
    if (saver_saved_step(t->saver) < 0)
        snprintf(last, sizeof last, "no state was saved yet");
    else
        snprintf(last, sizeof last, "the last state is of step %" PRId64,
                 saver_saved_step(t->saver));
    return status_fail(E_NUMERIC,
                       "step %" PRId64
                       ": loss %g, gradient norm %g; %s; sample ids %s; nothing was updated, %s",
                       t->next_step, result->loss, result->grad_norm, why, ids, last);
}

static Status record_step(Trainer *t, const StepResult *result)
{
    double img_per_s = (double)t->config.batch / result->seconds,
           data_ms = 1e3 * result->wait_seconds;
    LogField fields[] = {
        LOG_INT("step", t->next_step),
        LOG_DOUBLE("loss", result->loss),
        LOG_DOUBLE("grad_norm", result->grad_norm),
        LOG_DOUBLE("lr", result->lr),
        LOG_DOUBLE("loss_scale", scaler_scale(&t->scaler)),
        LOG_DOUBLE("step_ms", 1e3 * result->seconds),
        LOG_DOUBLE("data_wait_ms", data_ms),
        LOG_DOUBLE("img_per_s", img_per_s),
        LOG_INT("peak_bytes", peak_rss_bytes()),
    };
    TensorboardScalar scalars[] = {
        {"loss", result->loss},   {"grad_norm", result->grad_norm}, {"lr", result->lr},
        {"img_per_s", img_per_s}, {"data_wait_ms", data_ms},
    };
    TRY(log_record(t->log, sizeof fields / sizeof fields[0], fields));
    return tensorboard_add(t->board, t->next_step, sizeof scalars / sizeof scalars[0], scalars);
}

/* One line that moves on a terminal, a line now and then elsewhere. */
static void show_step(Trainer *t, const StepResult *result)
{
    bool now = t->next_step % t->options->run_log_every == 0 || t->next_step + 1 == t->n_steps;
    progress_step(t->progress, &(ProgressStep){.n_images = t->config.batch,
                                               .memory_bytes = peak_rss_bytes(),
                                               .loss = result->loss,
                                               .seconds = result->seconds,
                                               .wait_seconds = result->wait_seconds});
    if (t->progress || !now) return;
    log_text(t->log, LOG_INFO,
             "step %" PRId64 "/%" PRId64
             " loss %.6g grad_norm %.4g lr %.3g, %.2f img/s, %.0f ms, data "
             "wait %.0f ms",
             t->next_step, t->n_steps, result->loss, result->grad_norm, result->lr,
             (double)t->config.batch / result->seconds, 1e3 * result->seconds,
             1e3 * result->wait_seconds);
}

static void time_step(Trainer *t, double start_seconds, StepResult *result)
{
    double wait_seconds = loader_wait_seconds(t->loader);
    result->seconds = now_seconds() - start_seconds;
    result->wait_seconds = wait_seconds - t->wait_seconds;
    t->wait_seconds = wait_seconds;
}

/* The weights after next_step updates; a new best is saved at once. */
static Status validate(Trainer *t)
{
    double miou;
    TRY(validation_run(t->validation, t->next_step - 1, t->log, t->board, &miou));
    TRY(saver_wait(t->saver)); /* until then its thread may change the best score */
    if (t->folder->best_step >= 0 && !(miou > t->folder->best_score)) return OK;
    log_text(t->log, LOG_INFO, "the best so far, its state is kept");
    return save_state(t, miou);
}

static Status run_step(Trainer *t)
{
    const Batch *batch;
    StepResult result = {.lr = recipe_lr(t->options, t->next_step)};
    double start_seconds = now_seconds();
    TRY(loader_next(t->loader, &batch));
    TRY(feed(t, batch, result.lr));
    TRY(exec_run(t->exec));
    TRY(read_result(t, &result));
    if (scaler_update(&t->scaler, result.ok != 0) != OK) return explain_bad_step(t, batch, &result);
    time_step(t, start_seconds, &result);
    TRY(record_step(t, &result));
    show_step(t, &result);
    t->next_step++;
    TRY(saver_poll(t->saver));
    if (validation_is_due(t->validation, t->next_step, t->n_steps)) TRY(validate(t));
    return save_is_due(t) ? save_state(t, NAN) : OK;
}

static Status report_profile(Trainer *t)
{
    double peak_gflops;
    TRY(profile_measure_peak(t->recipe.backend, t->config.precision, &peak_gflops));
    profile_print(stderr, t->step->graph, t->exec, peak_gflops);
    char *path = file_join(t->folder->path, "profile.json");
    Status status = profile_write_trace(path, t->step->graph, t->exec);
    if (status == OK) log_text(t->log, LOG_INFO, "wrote %s", path);
    free(path);
    return status;
}

static Status run_steps(Trainer *t)
{
    if (t->options->run_profile) exec_profile(t->exec, true);
    while (t->next_step < t->n_steps) {
        TRY(run_step(t));
        if (!stop_asked()) continue;
        TRY(save_state(t, NAN));
        TRY(saver_wait(t->saver));
        return status_fail(E_INTERRUPTED,
                           "stopped by signal %d after step %" PRId64
                           "; the state is saved; go on with "
                           "--run.resume=auto",
                           stop_asked(), t->next_step - 1);
    }
    TRY(save_result(t));
    end_progress(t);
    return t->options->run_profile ? report_profile(t) : OK;
}

Status trainer_run(Options *options, StepKind kind, const FileOps *ops)
{
    Trainer t = {.options = options, .kind = kind, .ops = ops};
    stop_watch();
    Status status = open_all(&t);
    if (status == OK && is_done(&t)) {
        log_text(t.log, LOG_INFO, "%s: all %" PRId64 " steps are done", t.folder->path, t.n_steps);
    } else if (status == OK) {
        status = begin_run(&t);
        if (status == OK) status = run_steps(&t);
    }
    close_all(&t);
    return status;
}
