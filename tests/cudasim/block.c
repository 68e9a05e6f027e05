/* Runs the blocks of a kernel: one fiber per thread, switched only where threads wait for each
 * other.
 *
 * A block's threads run in a drawn order, each until it waits or ends. A warp's shuffle, vote or
 * barrier is done when the last lane of its mask arrives; a block's barrier when all threads have.
 * When nobody can go on and the barrier is not full, the kernel is divergent, which is reported
 * with who waits for whom.
 *
 * Called by stream.c (sim_kernel_run) and by instrumented kernels (cudasim_*, declared in
 * device.h). Must hold: blocks of a launch run one after the other, so that shared memory may be
 * one.
 */
#include "tests/cudasim/sim.h"

#include <assert.h>
#include <link.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { WARP = 32 };

typedef enum State { READY, AT_BARRIER, AT_SHUFFLE, AT_VOTE, AT_WARP_BARRIER, DONE } State;

typedef struct Thread {
    void *stack_pointer;
    uint3 index;
    State state;
    unsigned mask;      /* of the warp operation it waits in */
    int source, vote;   /* what it brought */
    uint64_t bits, got; /* what it brought and what it is given */
    unsigned warp_interval;
} Thread;

static struct {
    const SimKernel *kernel; /* NULL: none runs */
    uint3 block;
    Thread threads[SIM_MAX_THREADS];
    int n_threads, current;
    int n_done, n_at_barrier, votes;
    void *scheduler; /* its stack pointer while a fiber runs */
    bool aborted, in_fiber;
    char *stacks;
    char *shared;           /* dynamic shared memory */
    uintptr_t static_begin; /* of the static shared arrays */
    size_t static_bytes;
} sim = {.current = -1};

/* ---- fibers ---- */

#ifndef __x86_64__
#error "the simulator switches fibers by hand, on x86-64 only"
#endif

/* fiber_switch(&here, there): keeps what a function must keep, and goes on where `there` stopped.
 */
void fiber_switch(void **here, void *there);
__asm__(".text\n"
        ".globl fiber_switch\n"
        ".hidden fiber_switch\n"
        ".type fiber_switch, @function\n"
        "fiber_switch:\n"
        "  pushq %rbp\n  pushq %rbx\n  pushq %r12\n  pushq %r13\n  pushq %r14\n  pushq %r15\n"
        "  movq %rsp, (%rdi)\n"
        "  movq %rsi, %rsp\n"
        "  popq %r15\n  popq %r14\n  popq %r13\n  popq %r12\n  popq %rbx\n  popq %rbp\n"
        "  ret\n"
        ".size fiber_switch, .-fiber_switch\n");

static void to_scheduler(void)
{
    fiber_switch(&sim.threads[sim.current].stack_pointer, sim.scheduler);
}

static void fiber_main(void)
{
    sim.kernel->run(sim.kernel->kernel, sim.kernel->args);
    sim.threads[sim.current].state = DONE;
    sim.n_done++;
    to_scheduler();
    abort(); /* a fiber that is done is never resumed */
}

static char *stack_of(int thread) { return sim.stacks + (size_t)thread * SIM_STACK_BYTES; }

/* A stack on which fiber_switch's `ret` enters fiber_main as a call would: 8 bytes off 16. */
static void fiber_prepare(int thread)
{
    void **top = (void **)(stack_of(thread) + SIM_STACK_BYTES);
    *--top = NULL;
    *--top = (void *)fiber_main;
    for (int i = 0; i < 6; i++) *--top = NULL;
    sim.threads[thread].stack_pointer = top;
}

static void resume(int thread)
{
    sim.current = thread;
    sim.in_fiber = true;
    fiber_switch(&sim.scheduler, sim.threads[thread].stack_pointer);
    sim.in_fiber = false;
    sim.current = -1;
}

void sim_kernel_abort(void)
{
    sim.aborted = true;
    if (sim.in_fiber) to_scheduler();
}

/* ---- who runs, and where ---- */

int sim_thread(void) { return sim.current; }

unsigned sim_warp_interval(void) { return sim.threads[sim.current].warp_interval; }

static const char *thread_name(int thread, char *buffer, size_t bytes)
{
    uint3 t = sim.threads[thread].index;
    snprintf(buffer, bytes, "thread (%u,%u,%u)", t.x, t.y, t.z);
    return buffer;
}

const char *sim_thread_text(char *buffer, size_t bytes)
{
    char thread[48];
    snprintf(buffer, bytes, "%s of block (%u,%u,%u)",
             thread_name(sim.current, thread, sizeof thread), sim.block.x, sim.block.y,
             sim.block.z);
    return buffer;
}

SimPlace sim_place(uintptr_t address)
{
    uintptr_t own = (uintptr_t)stack_of(sim.current), all = (uintptr_t)sim.stacks;
    if (address - own < SIM_STACK_BYTES) return SIM_OWN_STACK;
    if (address - all < (size_t)SIM_MAX_THREADS * SIM_STACK_BYTES) return SIM_OTHER_STACK;
    if (address - (uintptr_t)sim.kernel->args < sim.kernel->args_bytes) return SIM_ARGS;
    return SIM_ELSEWHERE;
}

int64_t sim_shared_offset(uintptr_t address, size_t bytes)
{
    uintptr_t offset = address - (uintptr_t)sim.shared;
    if (offset < SIM_SHARED_BYTES) {
        if (offset + bytes > sim.kernel->shared_bytes)
            sim_report("touches byte %zu of %zu bytes of dynamic shared memory",
                       (size_t)(offset + bytes - 1), sim.kernel->shared_bytes);
        return (int64_t)offset;
    }
    offset = address - sim.static_begin;
    return offset < sim.static_bytes ? (int64_t)(SIM_SHARED_BYTES + offset) : -1;
}

/* The thread-local block of the library that this function lies in: all the static shared arrays.
 */
static int find_static(struct dl_phdr_info *info, size_t size, void *own)
{
    (void)size, (void)own;
    uintptr_t here = (uintptr_t)&find_static;
    bool inside = false;
    for (int i = 0; i < info->dlpi_phnum; i++) {
        const ElfW(Phdr) *p = &info->dlpi_phdr[i];
        inside |= p->p_type == PT_LOAD && here - (info->dlpi_addr + p->p_vaddr) < p->p_memsz;
    }
    for (int i = 0; inside && i < info->dlpi_phnum; i++)
        if (info->dlpi_phdr[i].p_type == PT_TLS) {
            sim.static_begin = (uintptr_t)info->dlpi_tls_data;
            sim.static_bytes = info->dlpi_phdr[i].p_memsz;
        }
    return inside;
}

/* So that there is a thread-local block even where no kernel has a static shared array. */
static __thread char in_static_block;

static void find_memory(void)
{
    if (!sim.stacks) {
        size_t bytes = (size_t)SIM_MAX_THREADS * SIM_STACK_BYTES;
        sim.stacks = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                          MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        assert(sim.stacks != MAP_FAILED);
        sim.shared = aligned_alloc(1024, SIM_SHARED_BYTES);
    }
    *(volatile char *)&in_static_block = 0; /* the block is made when it is touched first */
    dl_iterate_phdr(find_static, NULL);
}

/* ---- waiting ---- */

static int first_in(State state)
{
    for (int t = 0; t < sim.n_threads; t++)
        if (sim.threads[t].state == state) return t;
    return -1;
}

static const char *wait_text(State state)
{
    static const char *const texts[] = {"has not arrived",     "waits in __syncthreads",
                                        "waits in a shuffle",  "waits in a vote",
                                        "waits in __syncwarp", "has returned"};
    return texts[state];
}

/* A lane of the mask that `thread` waits with that is not there. */
static int missing_lane(int thread)
{
    const Thread *self = &sim.threads[thread];
    int warp = thread / WARP * WARP;
    for (int lane = 0; lane < WARP; lane++) {
        if (!(self->mask >> lane & 1)) continue;
        const Thread *other = &sim.threads[warp + lane];
        if (warp + lane >= sim.n_threads) return thread;
        if (other->state != self->state || other->mask != self->mask) return warp + lane;
    }
    return -1;
}

/* Nobody can go on: says why, in the name of a thread that waits. */
static void report_divergence(void)
{
    char other_name[48];
    int waits = first_in(AT_SHUFFLE);
    if (waits < 0) waits = first_in(AT_VOTE);
    if (waits < 0) waits = first_in(AT_WARP_BARRIER);
    int other = waits >= 0 ? missing_lane(waits) : -1;
    if (waits < 0) {
        waits = first_in(AT_BARRIER);
        other = first_in(DONE);
    }
    sim.current = waits; /* whose fault it is told as */
    if (other == waits)
        sim_report("%s for lanes that the block does not have (mask %08x)",
                   wait_text(sim.threads[waits].state), sim.threads[waits].mask);
    sim_report("%s (mask %08x) for %s, which %s%s", wait_text(sim.threads[waits].state),
               sim.threads[waits].mask, thread_name(other, other_name, sizeof other_name),
               wait_text(sim.threads[other].state),
               sim.threads[other].state == sim.threads[waits].state ? " with another mask" : "");
    sim.current = -1;
}

/* ---- the block's barrier ---- */

int cudasim_barrier(int vote);
int cudasim_barrier(int vote)
{
    Thread *self = &sim.threads[sim.current];
    self->state = AT_BARRIER;
    self->mask = 0;
    sim.n_at_barrier++;
    sim.votes += vote;
    to_scheduler();
    return (int)self->got;
}

static void release_barrier(void)
{
    for (int t = 0; t < sim.n_threads; t++) {
        sim.threads[t].state = READY;
        sim.threads[t].got = (uint64_t)sim.votes;
        sim.threads[t].warp_interval = 0;
    }
    sim.n_at_barrier = sim.votes = 0;
    sim_interval_begin();
}

/* ---- warps ---- */

static void finish_shuffle(Thread *warp, unsigned mask)
{
    for (int lane = 0; lane < WARP; lane++) {
        if (!(mask >> lane & 1)) continue;
        int source = warp[lane].source;
        if (source < 0 || source >= WARP || !(mask >> source & 1)) {
            sim.current = (int)(warp - sim.threads) + lane;
            sim_report("shuffles from lane %d, which is not in mask %08x", source, mask);
        }
        warp[lane].got = warp[source].bits;
    }
}

static void finish_vote(Thread *warp, unsigned mask)
{
    unsigned ballot = 0;
    for (int lane = 0; lane < WARP; lane++)
        if (mask >> lane & 1 && warp[lane].vote) ballot |= 1u << lane;
    for (int lane = 0; lane < WARP; lane++)
        if (mask >> lane & 1) warp[lane].got = ballot;
}

static void finish_warp_barrier(Thread *warp, unsigned mask)
{
    unsigned latest = 0;
    for (int lane = 0; lane < WARP; lane++)
        if (mask >> lane & 1 && warp[lane].warp_interval > latest)
            latest = warp[lane].warp_interval;
    for (int lane = 0; lane < WARP; lane++)
        if (mask >> lane & 1) warp[lane].warp_interval = latest + 1;
}

/* The thread that runs waits for the lanes of its mask; the last one does the work of all. */
static void meet_warp(State state, unsigned mask)
{
    int lane = sim.current % WARP;
    Thread *self = &sim.threads[sim.current], *warp = self - lane;
    if (!(mask >> lane & 1))
        sim_report("takes part in a warp operation without being in mask %08x", mask);
    self->state = state;
    self->mask = mask;
    if (missing_lane(sim.current) >= 0) {
        to_scheduler();
        return;
    }
    if (state == AT_SHUFFLE) finish_shuffle(warp, mask);
    if (state == AT_VOTE) finish_vote(warp, mask);
    if (state == AT_WARP_BARRIER) finish_warp_barrier(warp, mask);
    for (int i = 0; i < WARP; i++)
        if (mask >> i & 1) warp[i].state = READY;
}

void cudasim_warp_barrier(unsigned mask);
void cudasim_warp_barrier(unsigned mask) { meet_warp(AT_WARP_BARRIER, mask); }

uint64_t cudasim_shuffle(unsigned mask, uint64_t bits, int source_lane);
uint64_t cudasim_shuffle(unsigned mask, uint64_t bits, int source_lane)
{
    Thread *self = &sim.threads[sim.current];
    self->bits = bits;
    self->source = source_lane;
    meet_warp(AT_SHUFFLE, mask);
    return self->got;
}

unsigned cudasim_ballot(unsigned mask, int vote);
unsigned cudasim_ballot(unsigned mask, int vote)
{
    Thread *self = &sim.threads[sim.current];
    self->vote = vote;
    meet_warp(AT_VOTE, mask);
    return (unsigned)self->got;
}

int cudasim_lane(void);
int cudasim_lane(void) { return sim.current % WARP; }

/* ---- coordinates ---- */

uint3 cudasim_thread_idx(void);
uint3 cudasim_thread_idx(void) { return sim.threads[sim.current].index; }
uint3 cudasim_block_idx(void);
uint3 cudasim_block_idx(void) { return sim.block; }
uint3 cudasim_block_dim(void);
uint3 cudasim_block_dim(void) { return sim.kernel->block; }
uint3 cudasim_grid_dim(void);
uint3 cudasim_grid_dim(void) { return sim.kernel->grid; }
void *cudasim_dynamic_shared(void);
void *cudasim_dynamic_shared(void) { return sim.shared; }

/* ---- blocks ---- */

static uint3 coordinates(uint64_t flat, uint3 size)
{
    return (uint3){(unsigned)(flat % size.x), (unsigned)(flat / size.x % size.y),
                   (unsigned)(flat / size.x / size.y)};
}

/* One turn: every thread that can run, forwards or backwards from a drawn one. */
static bool run_ready(void)
{
    bool any = false, backwards = sim_random(2);
    int first = (int)sim_random((uint32_t)sim.n_threads);
    for (int i = 0; i < sim.n_threads && !sim.aborted; i++) {
        int t = (first + (backwards ? sim.n_threads - i : i)) % sim.n_threads;
        if (sim.threads[t].state != READY) continue;
        any = true;
        resume(t);
    }
    return any;
}

static void run_block(uint3 block)
{
    sim.block = block;
    sim.n_done = sim.n_at_barrier = sim.votes = 0;
    for (int t = 0; t < sim.n_threads; t++) {
        sim.threads[t].state = READY;
        sim.threads[t].warp_interval = 0;
        fiber_prepare(t);
    }
    sim_block_begin();
    while (sim.n_done < sim.n_threads && !sim.aborted) {
        if (run_ready()) continue;
        if (sim.n_at_barrier == sim.n_threads)
            release_barrier();
        else
            report_divergence();
    }
}

static uint64_t volume(uint3 size) { return (uint64_t)size.x * size.y * size.z; }

void sim_kernel_run(const SimKernel *kernel)
{
    find_memory();
    sim.kernel = kernel;
    sim.aborted = false;
    sim.n_threads = (int)volume(kernel->block);
    for (int t = 0; t < sim.n_threads; t++)
        sim.threads[t].index = coordinates((uint64_t)t, kernel->block);
    uint64_t n_blocks = volume(kernel->grid), first = sim_random((uint32_t)n_blocks);
    bool backwards = sim_random(2);
    for (uint64_t i = 0; i < n_blocks && !sim.aborted; i++)
        run_block(coordinates((first + (backwards ? n_blocks - i : i)) % n_blocks, kernel->grid));
    sim.kernel = NULL;
    sim.current = -1;
}
