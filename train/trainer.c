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

#include "base/clock.h"
#include "base/memory.h"
#include "kernels/comm/comm.h"
#include "train/account.h"
#include "train/budget.h"
#include "train/embeddings.h"
#include "train/feed.h"
#include "train/log.h"
#include "train/profile.h"
#include "train/progress.h"
#include "train/ranks.h"
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
    Comm *comm;   /* NULL: one rank */
    bool leads;   /* rank 0: reads states and weights, writes files, logs */
    bool is_done; /* the run had ended before */
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
    float loss, grad_norm, ok, stopping;
    double lr, seconds, wait_seconds;
} StepResult;

static int64_t peak_rss_bytes(void)
{
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return (int64_t)usage.ru_maxrss * 1024;
}

/* ---- opening ---- */

static int64_t global_batch(const Trainer *t)
{
    return t->options->train_batch * comm_size(t->comm);
}

static Status open_data(Trainer *t)
{
    const Options *o = t->options;
    TRY(recipe_open_source(o, t->kind == STEP_FINETUNE, o->run_dir[0] ? o->run_dir : NULL,
                           &t->source));
    t->n_steps = o->train_steps;
    if (t->n_steps == 0)
        t->n_steps = (int64_t)(o->train_epochs * (double)source_epoch_size(t->source) /
                               (double)global_batch(t));
    if (t->n_steps < 1)
        return status_fail(E_CONFIG,
                           "the run has no step: set train.steps, or train.epochs to more");
    if (t->kind != STEP_DISTILL || o->teacher_embeddings[0] == '\0') return OK;
    return embeddings_open(o, &t->recipe, t->source, &t->embeddings);
}

static Status open_step(Trainer *t)
{
    Options *o = t->options;
    recipe_step_config(&t->recipe, o, t->kind, &t->config);
    if (t->kind == STEP_DISTILL && !t->config.teacher && !t->embeddings)
        return status_fail(
            E_CONFIG,
            "distillation needs teacher.model and teacher.weights, or teacher.embeddings");
    t->loader_config = recipe_loader_config(&t->recipe, o, t->kind);
    t->loader_config.embeddings = t->embeddings;
    TRY(budget_fit(o, &t->recipe, t->loader_config.mask_words, true, &t->config));
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
    if (header.data_position != header.step * global_batch(t))
        return status_fail(E_CONFIG,
                           "the state is of a run with a global batch of %" PRId64 ", this one has "
                           "%" PRId64
                           ", and would see other samples; set train.global_batch=%" PRId64,
                           header.data_position / header.step, global_batch(t),
                           header.data_position / header.step);
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

/* What rank 0 has loaded, to all. */
static Status share_start(Trainer *t)
{
    int64_t start[] = {t->next_step, t->is_done};
    if (!t->leads && t->config.teacher) TRY(store_allocate(t->recipe.teacher_store));
    TRY(comm_broadcast(t->comm, "the step to start from", start, sizeof start, 0));
    t->next_step = start[0];
    t->is_done = start[1] != 0;
    if (t->config.teacher)
        TRY(ranks_share_store(t->comm, "the teacher's weights", t->recipe.teacher_store));
    return ranks_share_store(t->comm, "the start's weights", t->recipe.store);
}

static void announce(Trainer *t)
{
    options_print_preset(t->options, stderr);
    ranks_print_lr(t->options, comm_size(t->comm), stderr);
    if (t->folder->changes[0]) fprintf(stderr, "%s", t->folder->changes);
    account_memory(stderr, exec_plan(t->exec));
    fprintf(stderr, "  %-24s %10.1f\n", "copy for saving, beside it",
            (double)snapshot_bytes(t->recipe.store) / (1024.0 * 1024.0));
    budget_print(stderr, &t->config);
    log_text(t->log, LOG_INFO,
             "%s: %" PRId64 " samples, %" PRId64 " steps of %" PRId64
             " images, backend %s, %s, %d threads, "
             "seed %" PRId64,
             model_name(t->recipe.model), source_size(t->source), t->n_steps, global_batch(t),
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
    if (!t->leads) return log_open(NULL, NULL, &t->log);
    TRY(run_folder_open(t->ops, t->options, &t->folder));
    TRY(log_open(stderr, t->folder->log_path, &t->log));
    if (t->folder->lost) log_text(t->log, LOG_WARN, "%s", t->folder->lost);
    TRY(load_start(t));
    t->is_done = t->folder->done && t->next_step == t->n_steps;
    return OK;
}

/* Nothing of the run is changed before this. */
static Status begin_run(Trainer *t)
{
    TRY(exec_create(t->step->graph, t->recipe.backend, &t->exec));
    TRY(loader_create(t->source, &t->loader_config, t->next_step, &t->loader));
    if (!t->leads) return OK;
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
    TRY(ranks_open(t->options, &t->comm));
    TRY(ranks_divide_batch(t->options, comm_size(t->comm)));
    t->leads = comm_rank(t->comm) == 0;
    comm_doing(t->comm, "", "loading", true);
    TRY(recipe_open(t->options, &t->recipe));
    t->recipe.backend->comm = t->comm;
    TRY(open_data(t));
    TRY(open_step(t));
    TRY(validation_open(t->options, &t->recipe, t->kind, &t->validation));
    TRY(pin_choices(t));
    TRY(open_run(t));
    return share_start(t);
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
                          .data_position = t->next_step * global_batch(t),
                          .seed = (uint64_t)t->options->seed,
                          .n_threads = t->recipe.backend->n_threads,
                          .world_size = comm_size(t->comm),
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
    if (t->comm) TRY(feed_scalar(t->exec, t->step->stop, stop_asked() != 0));
    return feed_scalar(t->exec, t->step->loss_scale, scaler_scale(&t->scaler));
}

static Status read_result(Trainer *t, StepResult *result)
{
    TRY(exec_read(t->exec, t->step->loss, &result->loss));
    TRY(exec_read(t->exec, t->step->norm, &result->grad_norm));
    if (t->comm) TRY(exec_read(t->exec, t->step->stopping, &result->stopping));
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
    if (t->leads) TRY(saver_wait(t->saver));
    Status status = exec_run_checked(t->exec);
    if (status == OK)
        snprintf(why, sizeof why, "the sum of squares of the gradients overflows");
    else
        snprintf(why, sizeof why, "%s", status_message());
    if (!t->leads)
        snprintf(last, sizeof last, "rank 0 has the states");
    else if (saver_saved_step(t->saver) < 0)
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
    double img_per_s = (double)global_batch(t) / result->seconds,
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
    progress_step(t->progress, &(ProgressStep){.n_images = global_batch(t),
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
             (double)global_batch(t) / result->seconds, 1e3 * result->seconds,
             1e3 * result->wait_seconds);
}

static void time_step(Trainer *t, double start_seconds, StepResult *result)
{
    double wait_seconds = loader_wait_seconds(t->loader);
    result->seconds = clock_seconds() - start_seconds;
    result->wait_seconds = wait_seconds - t->wait_seconds;
    t->wait_seconds = wait_seconds;
}

/* The weights after next_step updates, on all ranks; a new best is saved at once. */
static Status validate(Trainer *t)
{
    double miou;
    /* norms of each rank: rank 0's are the run's */
    TRY(ranks_share_buffers(t->comm, t->recipe.store));
    TRY(validation_run(t->validation, t->next_step - 1, t->log, t->board, &miou));
    if (!t->leads) return OK;
    TRY(saver_wait(t->saver)); /* until then its thread may change the best score */
    if (t->folder->best_step >= 0 && !(miou > t->folder->best_score)) return OK;
    log_text(t->log, LOG_INFO, "the best so far, its state is kept");
    return save_state(t, miou);
}

/* Between two steps. What rank 0 alone does, the others wait for in the next one. */
static Status keep_step(Trainer *t, const StepResult *result)
{
    if (t->leads) {
        TRY(record_step(t, result));
        show_step(t, result);
        TRY(saver_poll(t->saver));
    }
    t->next_step++;
    comm_doing(t->comm, "", "judging or saving", true);
    if (validation_is_due(t->validation, t->next_step, t->n_steps)) TRY(validate(t));
    return t->leads && save_is_due(t) ? save_state(t, NAN) : OK;
}

static void name_faults(Trainer *t, const Batch *batch)
{
    for (int64_t b = 0; b < t->loader_config.batch; b++) {
        const BatchFault *fault = &batch->fault[b];
        if (fault->n_broken + fault->n_empty == 0) continue;
        log_text(t->log, LOG_WARN,
                 "replaced a sample: %s (in this process: %" PRId64 " broken so far)",
                 fault->message, loader_broken_samples(t->loader));
    }
}

static Status run_step(Trainer *t, bool *stop)
{
    const Batch *batch;
    StepResult result = {.lr = recipe_lr(t->options, comm_size(t->comm), t->next_step)};
    double start_seconds = clock_seconds();
    comm_at_step(t->comm, t->next_step);
    comm_doing(t->comm, "", "waiting for data", false);
    TRY(loader_next(t->loader, &batch));
    name_faults(t, batch);
    TRY(feed(t, batch, result.lr));
    TRY(exec_run(t->exec));
    TRY(read_result(t, &result));
    if (scaler_update(&t->scaler, result.ok != 0) != OK) return explain_bad_step(t, batch, &result);
    time_step(t, start_seconds, &result);
    *stop = t->comm ? result.stopping > 0 : stop_asked() != 0;
    return keep_step(t, &result);
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

/* All ranks stop after the same step, and leave together once rank 0 has saved. */
static Status stop_run(Trainer *t)
{
    comm_doing(t->comm, "", "saving", true);
    if (t->leads) {
        TRY(save_state(t, NAN));
        TRY(saver_wait(t->saver));
    }
    TRY(comm_barrier(t->comm, "the end of a stopped run"));
    return status_fail(E_INTERRUPTED,
                       "stopped by signal %d%s after step %" PRId64
                       "; the state is saved; go on with "
                       "--run.resume=auto",
                       stop_asked(), stop_asked() ? "" : " (another rank's)", t->next_step - 1);
}

static Status run_steps(Trainer *t)
{
    bool stop = false;
    if (t->options->run_profile) exec_profile(t->exec, true);
    while (t->next_step < t->n_steps) {
        TRY(run_step(t, &stop));
        if (stop) return stop_run(t);
    }
    comm_doing(t->comm, "", "saving", true);
    if (t->leads) TRY(save_result(t));
    TRY(comm_barrier(t->comm, "the end of the run"));
    end_progress(t);
    return t->options->run_profile && t->leads ? report_profile(t) : OK;
}

Status trainer_run(Options *options, StepKind kind, const FileOps *ops)
{
    Trainer t = {.options = options, .kind = kind, .ops = ops};
    stop_watch();
    Status status = open_all(&t);
    if (status == OK && t.is_done) {
        log_text(t.log, LOG_INFO, "%s: all %" PRId64 " steps are done", options->run_dir,
                 t.n_steps);
    } else if (status == OK) {
        status = begin_run(&t);
        if (status == OK) status = run_steps(&t);
    }
    end_progress(&t);
    if (comm_close(t.comm, status)) close_all(&t);
    return status;
}
