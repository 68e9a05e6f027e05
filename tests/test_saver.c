/* The saver: what is written is the moment it was asked for, however training goes on meanwhile; a
 * write that fails is told, and the states before it stay. */
#include <criterion/criterion.h>
#include <errno.h>
#include <math.h>
#include <semaphore.h>
#include <string.h>
#include <unistd.h>

#include "tests/support.h"
#include "train/saver.h"

enum { N_WEIGHTS = 2 * 3 * 2 * 2 };

static char folder[256];

typedef struct Place {
    Options options;
    Backend *backend;
    Store *store;
    RunFolder *run;
    Log *log;
    Saver *saver;
} Place;

static Place open_place(const char *name, const FileOps *ops)
{
    Place p = {0};
    char dir[300];
    char *words[] = {dir};
    int index;
    test_folder(name, folder, sizeof folder);
    snprintf(dir, sizeof dir, "--run.dir=%s/run", folder);
    cr_assert_eq(options_load(NULL, 1, words, &p.options), OK);
    cr_assert_eq(backend_open("ref", 1, &p.backend), OK);
    p.store = store_create(p.backend);
    cr_assert_eq(store_declare(p.store, "weight", STORE_PARAMETER, LAYOUT_OIHW, DT_F32,
                               SHAPE(2, 3, 2, 2), &index),
                 OK);
    cr_assert_eq(
        store_declare(p.store, "step.weight", STORE_STEP, LAYOUT_PLAIN, DT_F32, SHAPE(1), &index),
        OK);
    cr_assert_eq(store_allocate(p.store), OK);
    cr_assert_eq(run_folder_open(ops, &p.options, &p.run), OK, "%s", status_message());
    cr_assert_eq(log_open(NULL, NULL, &p.log), OK);
    cr_assert_eq(saver_open(p.run, p.store, p.log, -1, &p.saver), OK);
    return p;
}

static void close_place(Place *p)
{
    saver_close(p->saver);
    log_close(p->log);
    run_folder_close(p->run);
    store_destroy(p->store);
    backend_close(p->backend);
    options_free(&p->options);
}

/* All values of the store become functions of `moment`. */
static void set_moment(Place *p, float moment)
{
    float weight[N_WEIGHTS];
    for (int i = 0; i < N_WEIGHTS; i++) weight[i] = moment + (float)i / 64;
    Tensor tensor = {.dtype = DT_F32, .shape = SHAPE(2, 3, 2, 2), .data = weight};
    cr_assert_eq(store_set(p->store, 0, &tensor), OK);
    tensor.shape = SHAPE(1);
    cr_assert_eq(store_set(p->store, 1, &tensor), OK);
}

static Status save(Place *p, int64_t step)
{
    StateHeader header = {.step = step, .n_threads = 1, .world_size = 1, .config = "a: b\n"};
    return saver_save(p->saver, &header, NAN);
}

static void expect_moment(const Place *p, int64_t step, float moment)
{
    char *path = run_folder_state_path(p->run, step);
    State *state;
    cr_assert_eq(state_open(path, &state), OK, "%s", status_message());
    cr_assert_eq(state->header.step, step);
    cr_assert_str_eq(state->header.config, "a: b\n");
    const float *weight = safetensors_find(state->file, "weight")->data;
    for (int i = 0; i < N_WEIGHTS; i++)
        cr_assert_eq(weight[i], moment + (float)i / 64, "element %d, in PyTorch's order", i);
    cr_assert_eq(*(const float *)safetensors_find(state->file, "step.weight")->data, moment);
    state_close(state);
    free(path);
}

/* ---- calls that wait, or fail ---- */

typedef struct Gate {
    sem_t open;
    bool fails;
} Gate;

static ssize_t gated_write(void *context, int fd, const void *data, size_t n_bytes)
{
    Gate *gate = context;
    sem_wait(&gate->open);
    sem_post(&gate->open);
    errno = ENOSPC;
    return gate->fails ? -1 : write(fd, data, n_bytes);
}

static int gated_fsync(void *context, int fd)
{
    (void)context;
    return fsync(fd);
}

static int gated_rename(void *context, const char *from, const char *to)
{
    (void)context;
    return rename(from, to);
}

Test(saver, a_state_is_the_moment_it_was_asked_for)
{
    Gate gate = {.fails = false};
    FileOps ops = {&gate, gated_write, gated_fsync, gated_rename};
    sem_init(&gate.open, 0, 0);
    Place p = open_place("saver_moment", &ops);
    set_moment(&p, 1);
    cr_assert_eq(save(&p, 10), OK);
    cr_expect_eq(saver_poll(p.saver), OK, "a write under way is not waited for");
    cr_expect_eq(saver_saved_step(p.saver), -1, "it counts once it is there");
    set_moment(&p, 2); /* training goes on while nothing is written yet */
    sem_post(&gate.open);
    cr_assert_eq(saver_wait(p.saver), OK, "%s", status_message());
    cr_expect_eq(saver_saved_step(p.saver), 10);
    expect_moment(&p, 10, 1);
    cr_assert_eq(save(&p, 20), OK);
    cr_assert_eq(save(&p, 30), OK, "waits for the one before");
    set_moment(&p, 3);
    cr_assert_eq(saver_wait(p.saver), OK);
    expect_moment(&p, 20, 2);
    expect_moment(&p, 30, 2);
    close_place(&p);
}

Test(saver, a_write_that_fails_is_told)
{
    Gate gate = {.fails = false};
    FileOps ops = {&gate, gated_write, gated_fsync, gated_rename};
    sem_init(&gate.open, 0, 1);
    Place p = open_place("saver_fails", &ops);
    set_moment(&p, 1);
    cr_assert_eq(save(&p, 10), OK);
    cr_assert_eq(saver_wait(p.saver), OK);
    gate.fails = true;
    set_moment(&p, 2);
    cr_assert_eq(save(&p, 20), OK);
    cr_expect_eq(saver_wait(p.saver), E_FILE);
    cr_expect(strstr(status_message(), "the state of step 20 is not saved") &&
                  strstr(status_message(), "No space left"),
              "%s", status_message());
    cr_expect_eq(saver_saved_step(p.saver), 10);
    cr_expect_eq(saver_poll(p.saver), OK, "it is told once");
    expect_moment(&p, 10, 1);
    cr_assert_eq(save(&p, 30), OK);
    cr_expect_eq(save(&p, 40), E_FILE, "who saves again hears of the failure before");
    close_place(&p);
}

Test(saver, closing_ends_the_write_under_way)
{
    Place p = open_place("saver_close", &file_ops_system);
    set_moment(&p, 1);
    cr_assert_eq(save(&p, 10), OK);
    saver_close(p.saver);
    p.saver = NULL;
    expect_moment(&p, 10, 1);
    close_place(&p);
}
