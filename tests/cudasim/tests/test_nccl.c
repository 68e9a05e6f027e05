/* Sums over ranks on the CUDA backend: their values and their place among kernels, and what ranks
 * that differ or die make of them. On the simulator, whose NCCL is between processes; or with
 * TEST_BACKEND=cuda on a machine with two GPUs.
 *
 * The ranks are children of a test; one that fails prints why, and ends with another code than 0.
 */
#include <criterion/criterion.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "kernels/backend.h"
#include "kernels/comm/comm.h"

enum { N_RANKS = 2, N = 1500, N_ROUNDS = 6, RANK_SECONDS = 60, TIMEOUT_MS = 4000 };

typedef struct Rank {
    int rank;
    Comm *comm;
    Backend *backend;
    float *memory;
    OpAttr attr;
    KernelCall add, start, beside, wait, use;
} Rank;

static void must(Status status)
{
    if (status == OK) return;
    fprintf(stderr, "%s\n", status_message());
    exit(1);
}

static KernelCall bound(Rank *r, OpId op, const char *label, int64_t n, float *src, float *dst)
{
    KernelCall call = {
        .op = op, .label = label, .attr = &r->attr, .n_src = src != NULL, .n_dst = 1};
    call.src[0] = (Tensor){src ? DT_F32 : DT_NONE, SHAPE(n), NULL};
    call.dst[0] = (Tensor){DT_F32, SHAPE(n), NULL};
    must(r->backend->bind(r->backend, &call));
    call.src[0].data = src;
    call.dst[0].data = dst;
    return call;
}

static void open_rank(Rank *r, int rank, int port)
{
    const char *name = getenv("TEST_BACKEND");
    char local_rank[8], host_port[16];
    snprintf(local_rank, sizeof local_rank, "%d", rank);
    snprintf(host_port, sizeof host_port, "%d", port);
    const char *variables[][2] = {{"RANK", local_rank}, {"LOCAL_RANK", local_rank},
                                  {"WORLD_SIZE", "2"},  {"MASTER_ADDR", "127.0.0.1"},
                                  {"MASTER_PORT", host_port}};
    for (int i = 0; i < 5; i++) setenv(variables[i][0], variables[i][1], 1);
    Launch launch;
    *r = (Rank){.rank = rank};
    must(launch_from_environment(&launch));
    must(comm_open(&launch, TIMEOUT_MS, &r->comm));
    must(backend_open(name ? name : "cudasim", 1, &r->backend));
    r->backend->comm = r->comm;
    void *memory;
    must(r->backend->alloc(r->backend, 4 * N * sizeof(float), &memory));
    r->memory = memory;
}

static void upload(Rank *r, float *device, float value)
{
    float host[N];
    for (int i = 0; i < N; i++) host[i] = value + (float)(i % 7);
    must(r->backend->upload(r->backend, device, host, sizeof host));
}

/* sum += own; sum over the ranks, beside it other += own; out += sum. */
static void bind_round(Rank *r, int64_t n_summed)
{
    float *own = r->memory, *sum = own + N, *out = own + 2 * N, *other = own + 3 * N;
    r->add = bound(r, OP_ACCUM, "gradient", N, own, sum);
    r->start = bound(r, OP_ALL_REDUCE, "bucket", n_summed, NULL, sum);
    r->beside = bound(r, OP_ACCUM, "beside", N, own, other);
    r->wait = bound(r, OP_ALL_REDUCE_WAIT, "bucket", n_summed, NULL, sum);
    r->use = bound(r, OP_ACCUM, "update", N, sum, out);
    upload(r, own, (float)(r->rank + 1));
}

static void launch_round(const Rank *r)
{
    const KernelCall *calls[] = {&r->add, &r->start, &r->beside, &r->wait, &r->use};
    for (int i = 0; i < 5; i++) calls[i]->run(calls[i]);
}

static void close_rank(Rank *r)
{
    if (r->start.release) r->start.release(r->start.state);
    r->backend->free(r->backend, r->memory, 4 * N * sizeof(float));
    comm_close(r->comm, OK);
    backend_close(r->backend);
}

static void start_ranks(void (*run)(Rank *r), pid_t pids[N_RANKS])
{
    int port = 20000 + (int)getpid() % 10000;
    for (int rank = 0; rank < N_RANKS; rank++) {
        pids[rank] = fork();
        if (pids[rank] > 0) continue;
        Rank r;
        alarm(RANK_SECONDS);
        open_rank(&r, rank, port);
        run(&r);
        close_rank(&r);
        _exit(0);
    }
}

/* As a shell gives it. */
static int exit_code(pid_t pid)
{
    int status;
    cr_assert_eq(waitpid(pid, &status, 0), pid);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static void expect_codes(void (*run)(Rank *r), int first, int second)
{
    pid_t pids[N_RANKS];
    start_ranks(run, pids);
    cr_expect_eq(exit_code(pids[0]), first, "rank 0");
    cr_expect_eq(exit_code(pids[1]), second, "rank 1");
}

/* ---- values and order ---- */

static void expect_values(Rank *r, int n_rounds)
{
    float host[N];
    must(r->backend->wait(r->backend));
    must(r->backend->download(r->backend, host, r->memory + 2 * N, sizeof host));
    for (int i = 0; i < N; i++) {
        float both = 1 + 2 + 2 * (float)(i % 7), sum = 0, out = 0;
        for (int k = 0; k < n_rounds; k++) {
            sum = 2 * sum + both;
            out += sum;
        }
        if (host[i] == out) continue;
        fprintf(stderr, "rank %d: element %d is %g, wanted %g\n", r->rank, i, host[i], out);
        exit(1);
    }
}

static void sum_launched(Rank *r)
{
    bind_round(r, N);
    for (int k = 0; k < N_ROUNDS; k++) launch_round(r);
    expect_values(r, N_ROUNDS);
}

Test(nccl, sums_are_ordered_among_kernels, .timeout = 120) { expect_codes(sum_launched, 0, 0); }

static void sum_recorded(Rank *r)
{
    void *recording;
    bind_round(r, N);
    must(r->backend->record_begin(r->backend));
    launch_round(r);
    must(r->backend->record_end(r->backend, &recording));
    for (int k = 0; k < N_ROUNDS; k++) must(r->backend->replay(r->backend, recording));
    expect_values(r, N_ROUNDS);
    r->backend->recording_free(recording);
}

Test(nccl, sums_can_be_recorded, .timeout = 120) { expect_codes(sum_recorded, 0, 0); }

/* ---- ranks that fail ---- */

/* Closes all, as a run does, and ends with 3 if the failure is the one that is wanted: of rank 1,
 * and with this in it. */
static void end_as(Rank *r, Status status, const char *wanted)
{
    bool as_wanted = status == E_NETWORK && strstr(status_message(), "ends: rank 1 ") &&
                     strstr(status_message(), wanted);
    if (!as_wanted) fprintf(stderr, "got %d, %s; wanted %s\n", status, status_message(), wanted);
    comm_close(r->comm, status);
    if (r->start.release) r->start.release(r->start.state);
    r->backend->free(r->backend, r->memory, 4 * N * sizeof(float));
    backend_close(r->backend);
    _exit(as_wanted ? 3 : 4);
}

static void differ_in_size(Rank *r)
{
    KernelCall call = {.op = OP_ALL_REDUCE, .label = "bucket", .attr = &r->attr, .n_dst = 1};
    call.dst[0] = (Tensor){DT_F32, SHAPE(N - r->rank), NULL};
    end_as(r, r->backend->bind(r->backend, &call), "diverged: it is in");
}

Test(nccl, ranks_that_differ_are_refused_at_once, .timeout = 120)
{
    expect_codes(differ_in_size, 3, 3);
}

/* After a sum that both took part in. */
static void lose_rank_1(Rank *r, int signal_number)
{
    bind_round(r, N);
    launch_round(r);
    must(r->backend->wait(r->backend));
    comm_at_step(r->comm, 7);
    comm_doing(r->comm, "optimizer", "adamw", false);
    if (r->rank == 1) {
        sleep(2); /* its last word gets through */
        raise(signal_number);
    }
    launch_round(r);
    end_as(r, r->backend->wait(r->backend), "(last seen in step 7, optimizer: adamw)");
}

static void kill_rank_1(Rank *r) { lose_rank_1(r, SIGKILL); }
static void stop_rank_1(Rank *r) { lose_rank_1(r, SIGSTOP); }

Test(nccl, a_rank_that_dies_ends_the_others, .timeout = 120)
{
    expect_codes(kill_rank_1, 3, 128 + SIGKILL);
}

Test(nccl, a_rank_that_hangs_ends_the_others, .timeout = 120)
{
    pid_t pids[N_RANKS];
    start_ranks(stop_rank_1, pids);
    cr_expect_eq(exit_code(pids[0]), 3, "rank 0");
    kill(pids[1], SIGKILL);
    cr_expect_eq(exit_code(pids[1]), 128 + SIGKILL, "rank 1");
}
