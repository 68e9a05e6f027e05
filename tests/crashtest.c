/* `make crashtest`: runs that are killed, and whose files fail, again and again, end in the same
 * bits as one that nothing happened to.
 *
 *   crashtest [KILLS] [FAULTS] [SEED]
 *
 * The work is a chain as a user has it: teach, then distill from its cache; or finetune. Each
 * process is a fork of this one. KILLS of them are ended by SIGKILL: half at a random moment, half
 * inside a call that writes (FileOps): in the middle of a write, or around an fsync or a rename.
 * Then FAULTS processes of each kind meet a short write, a full disk, a failing fsync, a failing
 * rename. After each the same command is given again, each time with a random number of loader
 * threads. At the end of each chain: weights, optimiser and cache are compared byte for byte with
 * the undisturbed ones, log.jsonl has each step once, and DONE is there.
 *
 * No Criterion: its processes are watched and reaped by itself. Exits non-zero at the first
 * difference, naming the folder that is left to be looked at. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/rng.h"
#include "checkpoints/safetensors.h"
#include "tests/make_scenes.h"
#include "tests/support.h"
#include "train/teach.h"
#include "train/trainer.h"

enum { N_STEPS = 10, N_IMAGES = 7, N_MASKS = 4, MAX_KILLS_OF_A_JOB = 6, HANGS_AFTER_S = 120 };

typedef enum Job { JOB_TEACH, JOB_DISTILL, JOB_FINETUNE, N_JOBS } Job;
static const char *const job_names[N_JOBS] = {"teach", "distill", "finetune"};

typedef enum Harm {
    HARM_NONE,
    HARM_KILL_AT_TIME,
    HARM_KILL_AT_CALL,
    HARM_SHORT_WRITE,
    HARM_NO_SPACE,
    HARM_FSYNC,
    HARM_RENAME,
    N_HARMS
} Harm;
static const char *const harm_names[N_HARMS] = {
    "nothing",    "kills",          "kills inside a call", "short writes",
    "full disks", "failing fsyncs", "failing renames"};

typedef enum Call { CALL_WRITE, CALL_FSYNC, CALL_RENAME, N_CALLS } Call;

/* Shared with the child under way. */
typedef struct Shared {
    Harm harm;
    Call call;                  /* the kind of call that a kill waits for */
    long at;                    /* which of its kind is harmed */
    atomic_long calls[N_CALLS]; /* made so far */
    atomic_bool struck;
} Shared;

static Shared *shared;
static uint64_t seed, n_drawn;
static char root[128], scenes[160];

static void __attribute__((noreturn, format(printf, 1, 2))) give_up(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    fprintf(stderr, "crashtest: ");
    vfprintf(stderr, format, args);
    fprintf(stderr, "; see %s\n", root);
    va_end(args);
    exit(1);
}

static void must(Status status)
{
    if (status != OK) give_up("%s", status_message());
}

static long draw(long n) /* 0..n-1 */
{
    RngKey key = {.seed = seed, .purpose = RNG_TEST};
    return (long)rng_below(key, n_drawn++, (uint64_t)n);
}

/* ---- calls that fail, or that one does not come back from ---- */

static bool strikes(Call call)
{
    long n = atomic_fetch_add(&shared->calls[call], 1) + 1;
    bool strike = false;
    switch (shared->harm) {
    case HARM_KILL_AT_CALL: strike = call == shared->call && n == shared->at; break;
    case HARM_SHORT_WRITE: strike = call == CALL_WRITE && n == shared->at; break;
    case HARM_NO_SPACE: strike = call == CALL_WRITE && n >= shared->at; break; /* it stays full */
    case HARM_FSYNC: strike = call == CALL_FSYNC && n == shared->at; break;
    case HARM_RENAME: strike = call == CALL_RENAME && n == shared->at; break;
    default: break;
    }
    if (strike) atomic_store(&shared->struck, true);
    return strike;
}

static void die(void) { kill(getpid(), SIGKILL), pause(); }

static ssize_t harmed_write(void *context, int fd, const void *data, size_t n_bytes)
{
    (void)context;
    if (!strikes(CALL_WRITE)) return write(fd, data, n_bytes);
    ssize_t n = write(fd, data, n_bytes / 2);
    if (shared->harm == HARM_KILL_AT_CALL) die();
    if (shared->harm == HARM_SHORT_WRITE && n > 0) return n;
    errno = ENOSPC;
    return -1;
}

static int harmed_fsync(void *context, int fd)
{
    (void)context, (void)fd;
    if (!strikes(CALL_FSYNC)) return 0; /* the page cache outlives a process; power stays on here */
    if (shared->harm == HARM_KILL_AT_CALL) die();
    errno = EIO;
    return -1;
}

static int harmed_rename(void *context, const char *from, const char *to)
{
    (void)context;
    bool strike = strikes(CALL_RENAME);
    if (strike && shared->harm == HARM_KILL_AT_CALL) {
        if (shared->at % 2) rename(from, to);
        die();
    }
    if (!strike) return rename(from, to);
    errno = EIO;
    return -1;
}

static const FileOps harmed_ops = {NULL, harmed_write, harmed_fsync, harmed_rename};

/* ---- a process ---- */

static Status do_job(Job job, const char *folder, long n_threads)
{
    char data[200], run[300], cache[300], threads[40];
    snprintf(data, sizeof data, "--data.root=%s", scenes);
    snprintf(run, sizeof run, "--run.dir=%s/%s", folder, job_names[job]);
    snprintf(cache, sizeof cache, "%s/cache", folder);
    snprintf(threads, sizeof threads, "--data.threads=%ld", n_threads);
    char embeddings[330];
    snprintf(embeddings, sizeof embeddings, "--teacher.embeddings=%s", cache);
    char *words[24] = {data,
                       run,
                       threads,
                       "--model=configs/models/efficientvit_sam_tiny.yaml",
                       "--run.resume=auto",
                       "--run.threads=1",
                       "--run.save_every=2",
                       "--run.milestone_every=5",
                       "--train.batch=2",
                       "--train.steps=10",
                       "--optim.lr=1e-3",
                       "--optim.ema_decay=0.9",
                       "--data.masks_per_image=3",
                       "--teach.shard_size=300kB"};
    int n = 14;
    if (job != JOB_FINETUNE) {
        words[n++] = "--teacher.model=configs/models/sam_tiny.yaml";
        words[n++] = "--teacher.weights=random";
    }
    if (job == JOB_DISTILL) words[n++] = embeddings;
    Options options;
    TRY(options_load(NULL, n, words, &options));
    TeachWork work = {.folder = cache, .part = 1, .n_parts = 1};
    Status status = job == JOB_TEACH
                        ? teach_run(&options, &work, &harmed_ops)
                        : trainer_run(&options, job == JOB_DISTILL ? STEP_DISTILL : STEP_FINETUNE,
                                      &harmed_ops);
    options_free(&options);
    return status;
}

static pid_t start(Job job, const char *folder)
{
    char log[300];
    long n_threads = draw(3);
    snprintf(log, sizeof log, "%s/stderr", folder);
    pid_t child = fork();
    if (child < 0) give_up("fork: %s", strerror(errno));
    if (child > 0) return child;
    int fd = open(log, O_WRONLY | O_CREAT | O_APPEND, 0666);
    dup2(fd, STDERR_FILENO);
    alarm(HANGS_AFTER_S);
    Status status = do_job(job, folder, n_threads);
    if (status != OK) fprintf(stderr, "%s: %s\n", job_names[job], status_message());
    _exit(status == OK ? 0 : 1);
}

typedef enum End { END_DONE, END_FAILED, END_KILLED } End;

/* One process of a job under one harm. `at` is microseconds for a kill at a time, else a call. */
static End run_once(Job job, const char *folder, Harm harm, long at)
{
    shared->harm = harm;
    shared->at = at;
    for (int i = 0; i < N_CALLS; i++) atomic_store(&shared->calls[i], 0);
    atomic_store(&shared->struck, false);
    pid_t child = start(job, folder);
    int status;
    if (harm == HARM_KILL_AT_TIME) {
        usleep((useconds_t)at);
        kill(child, SIGKILL);
    }
    waitpid(child, &status, 0);
    if (WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL) return END_KILLED;
    if (WIFSIGNALED(status))
        give_up("%s in %s was ended by signal %d", job_names[job], folder, WTERMSIG(status));
    return WEXITSTATUS(status) == 0 ? END_DONE : END_FAILED;
}

/* ---- what must be the same ---- */

static void check_same_file(const char *folder, const char *name)
{
    char path[400], digest[2][DIGEST_HEX_BYTES];
    const char *folders[] = {folder, "undisturbed"};
    for (int i = 0; i < 2; i++) {
        snprintf(path, sizeof path, i ? "%s/%s/%s" : "%.0s%s/%s", root, folders[i], name);
        must(file_sha256(path, digest[i]));
    }
    if (strcmp(digest[0], digest[1])) give_up("%s/%s is not as undisturbed", folder, name);
}

/* The last states: all tensors, the optimiser's too. Their texts differ by the run's folder. */
static void check_same_state(const char *folder, const char *run)
{
    char path[400];
    SafeTensors *file[2];
    snprintf(path, sizeof path, "%s/%s/checkpoints/step_%09d.safetensors", folder, run, N_STEPS);
    must(safetensors_open(path, &file[0]));
    snprintf(path, sizeof path, "%s/undisturbed/%s/checkpoints/step_%09d.safetensors", root, run,
             N_STEPS);
    must(safetensors_open(path, &file[1]));
    if (file[0]->n_tensors != file[1]->n_tensors) give_up("%s/%s: other tensors", folder, run);
    for (int i = 0; i < file[0]->n_tensors; i++) {
        const Tensor *a = &file[0]->tensors[i].tensor, *b = &file[1]->tensors[i].tensor;
        if (tensor_bytes(a) != tensor_bytes(b) || memcmp(a->data, b->data, tensor_bytes(a)))
            give_up("%s/%s: %s is not as undisturbed", folder, run, file[0]->tensors[i].name);
    }
    safetensors_close(file[0]);
    safetensors_close(file[1]);
}

static void check_log(const char *folder, const char *run)
{
    char path[400], *text, *line;
    size_t n_bytes;
    int n = 0, step;
    snprintf(path, sizeof path, "%s/%s/log.jsonl", folder, run);
    must(file_read(path, 1 << 20, &text, &n_bytes));
    for (char *rest = text; (line = strsep(&rest, "\n")) && *line; n++)
        if (sscanf(line, "{\"step\":%d", &step) != 1 || step != n)
            give_up("%s: line %d is of another step", path, n + 1);
    if (n != N_STEPS) give_up("%s: %d steps", path, n);
    free(text);
}

static void check_job(Job job, const char *folder)
{
    char name[64];
    if (job == JOB_TEACH) {
        for (int i = 0; i < 3; i++) {
            snprintf(name, sizeof name, "cache/embeddings_1of1_%05d.shard", i);
            check_same_file(folder, name);
        }
        return;
    }
    snprintf(name, sizeof name, "%s/model.safetensors", job_names[job]);
    check_same_file(folder, name);
    snprintf(name, sizeof name, "%s/DONE", job_names[job]);
    check_same_file(folder, name);
    check_same_state(folder, job_names[job]);
    check_log(folder, job_names[job]);
}

/* ---- chains ---- */

typedef struct Undisturbed { /* what a job takes when nothing happens */
    long microseconds, calls[N_CALLS];
} Undisturbed;

typedef struct Count {
    int wanted_kills, kills[N_JOBS], kills_inside;
    int faults[N_HARMS], chains;
} Count;

static int all_kills(const Count *count)
{
    return count->kills[JOB_TEACH] + count->kills[JOB_DISTILL] + count->kills[JOB_FINETUNE];
}

static void finish_job(Job job, const char *folder)
{
    if (run_once(job, folder, HARM_NONE, 0) != END_DONE)
        give_up("%s in %s does not end, undisturbed", job_names[job], folder);
    check_job(job, folder);
}

/* Kills it a few times, then lets it end. */
static void kill_job(Job job, const char *folder, const Undisturbed *undisturbed, Count *count)
{
    for (int i = 0; i < MAX_KILLS_OF_A_JOB && all_kills(count) < count->wanted_kills; i++) {
        bool inside = draw(2);
        shared->call = (Call)draw(N_CALLS);
        long at = inside ? 1 + draw(undisturbed->calls[shared->call])
                         : draw(undisturbed->microseconds);
        End end = run_once(job, folder, inside ? HARM_KILL_AT_CALL : HARM_KILL_AT_TIME, at);
        if (end == END_FAILED) give_up("%s in %s failed after a kill", job_names[job], folder);
        if (end == END_DONE) break;
        count->kills[job]++;
        count->kills_inside += inside;
    }
    finish_job(job, folder);
}

/* One fault; false if the call that should fail never came. A short write is no failure: the rest
 * is written. Any other stops the process with an error. */
static bool fail_job(Job job, const char *folder, const Undisturbed *undisturbed, Harm harm)
{
    static const Call call_of[N_HARMS] = {[HARM_FSYNC] = CALL_FSYNC, [HARM_RENAME] = CALL_RENAME};
    End end = run_once(job, folder, harm, 1 + draw(undisturbed->calls[call_of[harm]]));
    bool struck = atomic_load(&shared->struck);
    End wanted = struck && harm != HARM_SHORT_WRITE ? END_FAILED : END_DONE;
    if (end != wanted)
        give_up("%s in %s %s under %s", job_names[job], folder,
                end == END_FAILED ? "failed" : "went on", harm_names[harm]);
    finish_job(job, folder);
    return struck;
}

static const char *new_folder(const char *kind, int number)
{
    static char folder[200];
    char name[160];
    snprintf(name, sizeof name, "crashtest/%s_%d", kind, number);
    test_folder(name, folder, sizeof folder);
    return folder;
}

static void run_undisturbed(Undisturbed undisturbed[N_JOBS])
{
    char folder[200];
    test_folder("crashtest/undisturbed", folder, sizeof folder);
    for (int job = 0; job < N_JOBS; job++) {
        double start_seconds = clock_seconds();
        if (run_once((Job)job, folder, HARM_NONE, 0) != END_DONE)
            give_up("%s does not end", job_names[job]);
        Undisturbed *u = &undisturbed[job];
        u->microseconds = (long)(1e6 * (clock_seconds() - start_seconds));
        for (int c = 0; c < N_CALLS; c++) u->calls[c] = atomic_load(&shared->calls[c]);
        printf("%-8s %.2f s, %ld writes, %ld fsyncs, %ld renames\n", job_names[job],
               1e-6 * (double)u->microseconds, u->calls[CALL_WRITE], u->calls[CALL_FSYNC],
               u->calls[CALL_RENAME]);
    }
}

static void kill_all(const Undisturbed undisturbed[N_JOBS], Count *count)
{
    while (all_kills(count) < count->wanted_kills) {
        const char *folder = new_folder("kill", count->chains++);
        for (int job = 0; job < N_JOBS; job++) kill_job((Job)job, folder, &undisturbed[job], count);
        printf("\r%d kills", all_kills(count));
        fflush(stdout);
        test_folder(strstr(folder, "crashtest"), (char[200]){0}, 200); /* it was good: empty it */
    }
    printf("\n");
}

static void fail_all(const Undisturbed undisturbed[N_JOBS], int wanted, Count *count)
{
    for (Harm harm = HARM_SHORT_WRITE; harm < N_HARMS; harm++) {
        while (count->faults[harm] < wanted) {
            const char *folder = new_folder("fault", count->chains++);
            for (int job = 0; job < N_JOBS && count->faults[harm] < wanted; job++)
                count->faults[harm] += fail_job((Job)job, folder, &undisturbed[job], harm);
            test_folder(strstr(folder, "crashtest"), (char[200]){0}, 200);
        }
        printf("%d %s\n", count->faults[harm], harm_names[harm]);
    }
}

int main(int argc, char **argv)
{
    Count count = {.wanted_kills = argc > 1 ? atoi(argv[1]) : 200};
    int wanted_faults = argc > 2 ? atoi(argv[2]) : 20;
    Undisturbed undisturbed[N_JOBS];
    double start_seconds = clock_seconds();
    seed = argc > 3 ? strtoull(argv[3], NULL, 10) : (uint64_t)time(NULL);
    printf("seed %llu\n", (unsigned long long)seed);
    shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (shared == MAP_FAILED) give_up("mmap: %s", strerror(errno));
    test_folder("crashtest", root, sizeof root);
    test_folder("crashtest/scenes", scenes, sizeof scenes);
    make_scenes(scenes, N_IMAGES, N_MASKS);
    run_undisturbed(undisturbed);
    kill_all(undisturbed, &count);
    fail_all(undisturbed, wanted_faults, &count);
    printf("crashtest: %d kills (%d inside a call that writes; %d of teach, %d of distill, %d of "
           "finetune) and %d faults in %d chains: each ended in the bits of the undisturbed one; "
           "%.0f s\n",
           all_kills(&count), count.kills_inside, count.kills[JOB_TEACH], count.kills[JOB_DISTILL],
           count.kills[JOB_FINETUNE], 4 * wanted_faults, count.chains,
           clock_seconds() - start_seconds);
    return 0;
}
