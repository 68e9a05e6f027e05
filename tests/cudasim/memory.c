/* Device memory, and what every access must obey.
 *
 * An access is legal if it is aligned, lies in an allocation and in an operand of the op that runs
 * (no writing of sources), reads nothing that was never written, and races with nobody: two
 * accesses of one place, one of them a write, must be ordered, by the thread itself, by __syncwarp
 * within a warp, by
 * __syncthreads within a block, by the stream or an event between operations. Blocks of a launch
 * are never ordered.
 *
 * Shadow. Every 2 bytes have a Cell with the last write and the last read, each a Record. Time is
 * one counter, the epoch: a new one begins with each block and after each barrier, so that "since
 * when" tells block and operation apart by comparison alone.
 *
 * Called by block.c, stream.c, the libraries' stand-ins and the hooks of instrumented code at the
 * end. Must hold: outside of sim_device_open .. sim_device_close no page of the device can be
 * touched, so a host that takes a device pointer for its own is stopped.
 */
#include "tests/cudasim/sim.h"

#include <assert.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { GRANULE = 2, GUARD_BYTES = 4096, ALIGN_BYTES = 256, WARP = 32, MAX_ALLOCATIONS = 4096 };
static const size_t DEVICE_BYTES = (size_t)80
                                   << 30; /* addresses; pages come when they are touched */

/* epoch | warp interval 12 | thread 10 | bytes of the granule 2 | flags 4 */
typedef uint64_t Record;
enum {
    FLAG_ATOMIC = 1,
    FLAG_THREADS = 2, /* other threads of the warp have read it, too, since the warp's barrier */
    FLAG_WARPS = 4,   /* other warps, since the block's barrier */
    FLAG_BLOCKS = 8,  /* other blocks of the launch */
    MASK_SHIFT = 4,
    THREAD_SHIFT = 6,
    INTERVAL_SHIFT = 16,
    EPOCH_SHIFT = 32,
    MAX_INTERVAL = 4095,
};

typedef struct Cell {
    Record write, read;
} Cell;

typedef struct Allocation {
    uintptr_t begin, end;
    bool freed;
    bool fresh; /* nobody has touched it: its pages and their shadow are not there yet */
} Allocation;

/* Where each operation of a stream began, by its number - 1; 0: it has not run. */
typedef struct Log {
    uint32_t *begin;
    uint32_t n, capacity;
} Log;

static struct {
    uintptr_t base, next;
    Cell *cells;
    uint8_t *blank; /* per granule: which of its bytes nobody has written */
    Allocation allocations[MAX_ALLOCATIONS];
    int n_allocations, last_found;
    bool open;
    uint32_t epoch, block_begin, op_begin;
    uint32_t settled; /* operations that began before it are ordered before the present one */
    Log logs[SIM_MAX_STREAMS];
    SimClock clock;
    const SimCall *call;
    const char *op_name;
    int last_operand;
    Cell *shared_cells;
    uint8_t *shared_blank;
    size_t shared_granules;
} sim = {.epoch = 1};

/* ---- allocations ---- */

static void *reserve(size_t bytes, int protection)
{
    void *memory = mmap(NULL, bytes, protection, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1,
                        0);
    if (memory == MAP_FAILED) {
        fprintf(stderr, "cudasim: cannot reserve %zu bytes of addresses\n", bytes);
        abort();
    }
    return memory;
}

/* The host touched the device: says so and lets it crash. */
static void on_fault(int signal_number, siginfo_t *info, void *context)
{
    (void)context;
    char text[200];
    if (sim_is_device(info->si_addr)) {
        int n = snprintf(
            text, sizeof text,
            "cudasim: the host touches device memory at %p, outside of a kernel or copy\n",
            info->si_addr);
        if (write(STDERR_FILENO, text, (size_t)n) < 0) abort();
    }
    signal(signal_number, SIG_DFL); /* the faulting instruction runs again */
}

static void start(void)
{
    if (sim.base) return;
    sim.base = sim.next = (uintptr_t)reserve(DEVICE_BYTES, PROT_NONE);
    sim.cells = reserve(DEVICE_BYTES / GRANULE * sizeof(Cell), PROT_READ | PROT_WRITE);
    sim.blank = reserve(DEVICE_BYTES / GRANULE, PROT_READ | PROT_WRITE);
    sim.shared_granules = (size_t)4 << 20;
    sim.shared_cells = reserve(sim.shared_granules * sizeof(Cell), PROT_READ | PROT_WRITE);
    sim.shared_blank = reserve(sim.shared_granules, PROT_READ | PROT_WRITE);
    struct sigaction action = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO};
    sigaction(SIGSEGV, &action, NULL);
}

bool sim_is_device(const void *address)
{
    return sim.base && (uintptr_t)address - sim.base < DEVICE_BYTES;
}

size_t sim_total_bytes(void) { return DEVICE_BYTES; }
size_t sim_free_bytes(void) { return DEVICE_BYTES - (sim.base ? sim.next - sim.base : 0); }

void *sim_malloc(size_t bytes)
{
    start();
    size_t room = (bytes + GUARD_BYTES + ALIGN_BYTES - 1) / ALIGN_BYTES * ALIGN_BYTES;
    if (bytes > DEVICE_BYTES || room > sim_free_bytes()) return NULL;
    if (sim.n_allocations == MAX_ALLOCATIONS) return NULL;
    uintptr_t memory = sim.next;
    sim.allocations[sim.n_allocations++] = (Allocation){memory, memory + bytes, false, true};
    sim.next += room;
    return (void *)memory;
}

bool sim_free(void *memory)
{
    for (int i = 0; i < sim.n_allocations; i++) {
        Allocation *a = &sim.allocations[i];
        if (a->begin != (uintptr_t)memory || a->freed) continue;
        a->freed = true;
        uintptr_t first = (a->begin + 4095) / 4096 * 4096, last = a->end / 4096 * 4096;
        if (last > first) madvise((void *)first, last - first, MADV_DONTNEED);
        return true;
    }
    return false;
}

static void protect(int protection)
{
    if (sim.next > sim.base)
        mprotect((void *)sim.base, (sim.next - sim.base + 4095) / 4096 * 4096, protection);
}

void sim_device_open(void)
{
    start();
    if (!sim.open) protect(PROT_READ | PROT_WRITE);
    sim.open = true;
}

void sim_device_close(void)
{
    if (sim.open) protect(PROT_NONE);
    sim.open = false;
}

/* ---- operations ---- */

static void next_epoch(void)
{
    sim.epoch++;
    assert(sim.epoch != 0);
}

void sim_block_begin(void)
{
    next_epoch();
    sim.block_begin = sim.epoch;
}

void sim_interval_begin(void) { next_epoch(); }

/* The earliest operation that has run without being ordered before this one. */
static uint32_t find_settled(const SimClock *clock)
{
    uint32_t settled = sim.op_begin;
    for (int s = 0; s < SIM_MAX_STREAMS; s++)
        for (uint32_t i = clock->seen[s]; i < sim.logs[s].n; i++)
            if (sim.logs[s].begin[i] && sim.logs[s].begin[i] < settled)
                settled = sim.logs[s].begin[i];
    return settled;
}

void sim_op_begin(const char *name, const SimCall *call, int stream, uint32_t number,
                  const SimClock *clock)
{
    next_epoch();
    sim.op_begin = sim.block_begin = sim.epoch;
    sim.op_name = name;
    sim.call = call;
    sim.last_operand = 0;
    sim.clock = *clock;
    sim.clock.seen[stream] = number; /* itself */
    Log *log = &sim.logs[stream];
    if (log->capacity < number) {
        uint32_t capacity = number * 2 + 64;
        log->begin = realloc(log->begin, capacity * sizeof *log->begin);
        memset(log->begin + log->capacity, 0, (capacity - log->capacity) * sizeof *log->begin);
        log->capacity = capacity;
    }
    if (log->n < number) log->n = number;
    log->begin[number - 1] = sim.epoch;
    sim.settled = find_settled(&sim.clock);
}

void sim_op_end(void)
{
    sim.call = NULL;
    sim.op_name = NULL;
}

const char *sim_op_name(void) { return sim.op_name; }
const char *sim_call_name(void) { return sim.call ? sim.call->name : NULL; }

/* Whether the operation that ran at `epoch` is ordered before the present one. */
static bool op_is_ordered(uint32_t epoch)
{
    int owner = 0;
    uint32_t latest = 0, number = 0;
    for (int s = 0; s < SIM_MAX_STREAMS; s++)
        for (uint32_t i = sim.logs[s].n; i > 0; i--) {
            uint32_t begin = sim.logs[s].begin[i - 1];
            if (!begin || begin > epoch) continue;
            if (begin > latest) owner = s, latest = begin, number = i;
            break; /* those before began earlier */
        }
    return number <= sim.clock.seen[owner];
}

/* ---- races ---- */

typedef enum Race { RACE_NONE, RACE_THREADS, RACE_BLOCKS, RACE_STREAMS } Race;

static uint32_t epoch_of(Record r) { return (uint32_t)(r >> EPOCH_SHIFT); }
static int thread_of(Record r) { return (int)(r >> THREAD_SHIFT & 1023); }
static unsigned interval_of(Record r) { return (unsigned)(r >> INTERVAL_SHIFT & MAX_INTERVAL); }
static unsigned mask_of(Record r) { return (unsigned)(r >> MASK_SHIFT & 3); }

static Record record_now(unsigned mask, bool atomic)
{
    int thread = sim_thread();
    unsigned interval = thread < 0 ? 0 : sim_warp_interval();
    if (thread < 0) thread = 0;
    if (interval > MAX_INTERVAL) interval = MAX_INTERVAL;
    return (Record)sim.epoch << EPOCH_SHIFT | (Record)interval << INTERVAL_SHIFT |
           (Record)thread << THREAD_SHIFT | mask << MASK_SHIFT | (atomic ? FLAG_ATOMIC : 0);
}

/* Two accesses between the same two barriers of one block. */
static Race race_in_interval(Record old, Record now)
{
    if (old & FLAG_WARPS) return RACE_THREADS;
    if (thread_of(old) / WARP != thread_of(now) / WARP) return RACE_THREADS;
    if (interval_of(old) < interval_of(now)) return RACE_NONE;
    if (old & FLAG_THREADS) return RACE_THREADS;
    return thread_of(old) == thread_of(now) ? RACE_NONE : RACE_THREADS;
}

static Race race(Record old, Record now)
{
    uint32_t epoch = epoch_of(old);
    if (epoch < sim.settled) return RACE_NONE;
    if (!(mask_of(old) & mask_of(now)) || (old & now & FLAG_ATOMIC)) return RACE_NONE;
    if (epoch < sim.op_begin) return op_is_ordered(epoch) ? RACE_NONE : RACE_STREAMS;
    if (epoch < sim.block_begin || old & FLAG_BLOCKS) return RACE_BLOCKS;
    return epoch < sim.epoch ? RACE_NONE : race_in_interval(old, now);
}

/* The record of reads after one more. Of reads by operations that are not ordered among each
 * other only the last is kept: a write that races with an earlier one alone is seen in other orders
 * of the streams only. */
static Record join_reads(Record old, Record now)
{
    uint32_t epoch = epoch_of(old);
    if (epoch < sim.op_begin) return now;
    if (epoch < sim.block_begin) return now | FLAG_BLOCKS;
    now |= old & FLAG_BLOCKS;
    if (epoch < sim.epoch) return now;
    now |= old & (FLAG_WARPS | (Record)3 << MASK_SHIFT);
    if (thread_of(old) / WARP != thread_of(now) / WARP) return now | FLAG_WARPS;
    if (interval_of(old) < interval_of(now)) return now;
    if (thread_of(old) != thread_of(now)) now |= FLAG_THREADS;
    return now | (old & FLAG_THREADS);
}

static Race cell_access(Cell *cell, Record now, bool write)
{
    Race found = race(cell->write, now);
    if (!write) {
        cell->read = join_reads(cell->read, now);
        return found;
    }
    if (found == RACE_NONE) found = race(cell->read, now);
    cell->write = now;
    return found;
}

/* ---- messages ---- */

static const char *operand_text(const SimOperand *operand, char *buffer, size_t bytes)
{
    static const char *const roles[] = {"source", "destination", "destination", "scratch"};
    if (operand->role == SIM_SCRATCH)
        snprintf(buffer, bytes, "scratch");
    else
        snprintf(buffer, bytes, "%s %d", roles[operand->role], operand->index);
    return buffer;
}

/* "element 7 of source 0", "12 bytes after destination 0", or the allocation. */
static const char *address_text(uintptr_t address, char *buffer, size_t bytes)
{
    char name[40];
    const SimOperand *nearest = NULL;
    uintptr_t distance = UINTPTR_MAX;
    for (int i = 0; sim.call && i < sim.call->n_operands; i++) {
        const SimOperand *o = &sim.call->operands[i];
        uintptr_t d = address < o->begin  ? o->begin - address
                      : address >= o->end ? address - o->end
                                          : 0;
        if (nearest && d >= distance) continue;
        nearest = o;
        distance = d;
    }
    if (!nearest)
        snprintf(buffer, bytes, "%p", (void *)address);
    else if (address < nearest->begin)
        snprintf(buffer, bytes, "%zu bytes before %s", (size_t)(nearest->begin - address),
                 operand_text(nearest, name, sizeof name));
    else if (address >= nearest->end)
        snprintf(buffer, bytes, "%zu bytes after the end of %s", (size_t)(address - nearest->end),
                 operand_text(nearest, name, sizeof name));
    else
        snprintf(buffer, bytes, "element %zu of %s",
                 (size_t)((address - nearest->begin) / (size_t)nearest->element_bytes),
                 operand_text(nearest, name, sizeof name));
    return buffer;
}

static void report_race(Race found, const char *place, bool write)
{
    static const char *const whom[] = {"", "another thread of the block, with no barrier between",
                                       "another block of the launch",
                                       "an operation of another stream, with no event between"};
    sim_report("%s %s and races with %s", write ? "writes" : "reads", place, whom[found]);
}

/* ---- device memory ---- */

/* Memory that is used without having been cleared whole: all of it is blank. */
static void lose_freshness(Allocation *a)
{
    a->fresh = false;
    memset(sim.blank + (a->begin - sim.base) / GRANULE, 3, (a->end - a->begin + 1) / GRANULE);
}

static bool in_allocation(uintptr_t address, size_t bytes)
{
    for (int i = 0; i < sim.n_allocations; i++) {
        int at = (sim.last_found + i) % sim.n_allocations;
        const Allocation *a = &sim.allocations[at];
        if (a->freed || address < a->begin || address + bytes > a->end) continue;
        sim.last_found = at;
        if (a->fresh) lose_freshness(&sim.allocations[at]);
        return true;
    }
    return false;
}

bool sim_clear_fresh(const void *memory, size_t bytes)
{
    for (int i = 0; i < sim.n_allocations; i++) {
        Allocation *a = &sim.allocations[i];
        if (a->begin != (uintptr_t)memory || a->end - a->begin != bytes || !a->fresh) continue;
        a->fresh = false;
        return true;
    }
    return false;
}

/* An operand that holds all of it and allows it. An in-place destination lies on a source, so the
 * first that fits is not always the right one. */
static bool in_operand(uintptr_t address, size_t bytes, bool write)
{
    int n = sim.call->n_operands;
    for (int i = 0; i < n; i++) {
        int at = sim.last_operand + i < n ? sim.last_operand + i : sim.last_operand + i - n;
        const SimOperand *o = &sim.call->operands[at];
        if (address < o->begin || address + bytes > o->end) continue;
        if (write && o->role == SIM_SOURCE) continue;
        sim.last_operand = at;
        return true;
    }
    return false;
}

/* Why an access is nobody's: told once, so slow. */
static void report_place(uintptr_t address, size_t bytes, bool write)
{
    char place[120];
    sim_report("%s %zu bytes at %s: %s", write ? "writes" : "reads", bytes,
               address_text(address, place, sizeof place),
               !in_allocation(address, bytes)               ? "outside of all allocations"
               : write && in_operand(address, bytes, false) ? "a source may not be written"
                                                            : "outside of what the op was given");
}

static bool place_is_legal(uintptr_t address, size_t bytes, bool write)
{
    if (sim.call ? in_operand(address, bytes, write) : in_allocation(address, bytes)) return true;
    report_place(address, bytes, write);
    return false;
}

static unsigned bytes_of_granule(uintptr_t granule, uintptr_t begin, uintptr_t end)
{
    unsigned mask = 3;
    if (granule < begin) mask &= 2;
    if (granule + GRANULE > end) mask &= 1;
    return mask;
}

static void report_granule(uintptr_t address, bool write, bool unwritten, bool shared, Race found)
{
    char place[120] = "shared memory";
    if (!shared) address_text(address, place, sizeof place);
    if (unwritten)
        sim_report("reads %s, which nobody has written", place);
    else
        report_race(found, place, write);
}

static bool range_access(Cell *cells, uint8_t *blank, uintptr_t address, size_t bytes, bool write,
                         bool atomic, bool shared)
{
    uintptr_t first = address / GRANULE * GRANULE, end = address + bytes;
    Record whole = record_now(3, atomic);
    for (uintptr_t g = first; g < end; g += GRANULE, cells++, blank++) {
        unsigned mask = bytes_of_granule(g, address, end);
        Record now = mask == 3 ? whole : record_now(mask, atomic);
        Race found = cell_access(cells, now, write);
        bool unwritten = (!write || atomic) && *blank & mask;
        if (write) *blank &= (uint8_t)~mask;
        if (found == RACE_NONE && !unwritten) continue;
        report_granule(g < address ? address : g, write, unwritten, shared, found);
        return false;
    }
    return true;
}

static bool device_access(uintptr_t address, size_t bytes, bool write, bool atomic)
{
    if (!place_is_legal(address, bytes, write)) return false;
    size_t granule = (address - sim.base) / GRANULE;
    return range_access(sim.cells + granule, sim.blank + granule, address, bytes, write, atomic,
                        false);
}

bool sim_touch(const void *address, size_t bytes, bool write)
{
    if (bytes == 0) return true;
    if (!sim_is_device(address)) {
        sim_report("%s a host pointer %p as device memory", write ? "writes" : "reads", address);
        return false;
    }
    return device_access((uintptr_t)address, bytes, write, false);
}

/* ---- destinations ---- */

static bool is_read_too(const SimCall *call, const SimOperand *operand)
{
    if (operand->role == SIM_SOURCE || operand->role == SIM_STATE) return true;
    for (int i = 0; i < call->n_operands; i++) {
        const SimOperand *o = &call->operands[i];
        bool apart = o->end <= operand->begin || o->begin >= operand->end;
        if ((o->role == SIM_SOURCE || o->role == SIM_STATE) && !apart) return true;
    }
    return false;
}

void sim_call_begin(const SimCall *call)
{
    for (int i = 0; i < call->n_operands; i++) {
        const SimOperand *o = &call->operands[i];
        if (!in_allocation(o->begin, o->end - o->begin) || is_read_too(call, o)) continue;
        memset(sim.blank + (o->begin - sim.base) / GRANULE, 3,
               (o->end - o->begin + GRANULE - 1) / GRANULE);
    }
}

void sim_call_end(const SimCall *call)
{
    for (int i = 0; i < call->n_operands; i++) {
        const SimOperand *o = &call->operands[i];
        if (o->role != SIM_DESTINATION || is_read_too(call, o)) continue;
        for (uintptr_t at = o->begin; at < o->end; at += GRANULE) {
            unsigned mask = bytes_of_granule(at, o->begin, o->end);
            if (!(sim.blank[(at - sim.base) / GRANULE] & mask)) continue;
            sim_report("left element %zu of destination %d unwritten",
                       (size_t)(at - o->begin) / (size_t)o->element_bytes, o->index);
            return;
        }
    }
}

/* ---- shared memory ---- */

static bool shared_access(int64_t offset, size_t bytes, bool write, bool atomic)
{
    size_t granule = (size_t)offset / GRANULE, n = bytes / GRANULE + 2;
    if (granule + n > sim.shared_granules) {
        sim_report("touches more shared memory than the simulator has");
        return false;
    }
    for (size_t g = granule; g < granule + n; g++) { /* of a block before: garbage now */
        Cell *cell = &sim.shared_cells[g];
        if (epoch_of(cell->write) < sim.block_begin) cell->write = 0, sim.shared_blank[g] = 3;
        if (epoch_of(cell->read) < sim.block_begin) cell->read = 0;
    }
    return range_access(sim.shared_cells + granule, sim.shared_blank + granule, (uintptr_t)offset,
                        bytes, write, atomic, true);
}

/* ---- kernels ---- */

static void elsewhere_access(SimPlace place, uintptr_t address, size_t bytes, bool write)
{
    if (place == SIM_OTHER_STACK)
        sim_report("%s a local variable of another thread", write ? "writes" : "reads");
    else
        sim_report("%s %zu bytes through a host pointer, %p", write ? "writes" : "reads", bytes,
                   (void *)address);
}

void sim_access(uintptr_t address, size_t bytes, bool write, bool atomic, size_t alignment)
{
    if (sim_thread() < 0) return; /* host code of a .cu file */
    /* Copies of local structures are as wide as g++ likes, and as aligned as its stack is. */
    SimPlace place = sim_place(address);
    if (place == SIM_OWN_STACK || place == SIM_ARGS) return;
    if (address % alignment)
        sim_report("%s %zu bytes at %p, which is not aligned to %zu", write ? "writes" : "reads",
                   bytes, (void *)address, alignment);
    if (address - sim.base < DEVICE_BYTES) {
        device_access(address, bytes, write, atomic);
        return;
    }
    int64_t offset = sim_shared_offset(address, bytes);
    if (offset >= 0)
        shared_access(offset, bytes, write, atomic);
    else
        elsewhere_access(place, address, bytes, write);
}

void cudasim_atomic(void *address, size_t bytes);
void cudasim_atomic(void *address, size_t bytes)
{
    sim_access((uintptr_t)address, bytes, true, true, bytes);
}

/* ---- the hooks of -fsanitize=thread, which the compiler calls before each access ---- */

#define HOOKS(n)                                                                               \
    void __tsan_read##n(void *address);                                                        \
    void __tsan_read##n(void *address) { sim_access((uintptr_t)address, n, false, false, n); } \
    void __tsan_write##n(void *address);                                                       \
    void __tsan_write##n(void *address) { sim_access((uintptr_t)address, n, true, false, n); } \
    void __tsan_unaligned_read##n(void *address);                                              \
    void __tsan_unaligned_read##n(void *address)                                               \
    {                                                                                          \
        sim_access((uintptr_t)address, n, false, false, 1);                                    \
    }                                                                                          \
    void __tsan_unaligned_write##n(void *address);                                             \
    void __tsan_unaligned_write##n(void *address)                                              \
    {                                                                                          \
        sim_access((uintptr_t)address, n, true, false, 1);                                     \
    }
HOOKS(1)
HOOKS(2)
HOOKS(4)
HOOKS(8)
HOOKS(16)

void __tsan_read_range(void *address, size_t bytes);
void __tsan_read_range(void *address, size_t bytes)
{
    sim_access((uintptr_t)address, bytes, false, false, 1);
}
void __tsan_write_range(void *address, size_t bytes);
void __tsan_write_range(void *address, size_t bytes)
{
    sim_access((uintptr_t)address, bytes, true, false, 1);
}
void __tsan_func_entry(void *address);
void __tsan_func_entry(void *address) { (void)address; }
void __tsan_func_exit(void);
void __tsan_func_exit(void) {}
void __tsan_init(void);
void __tsan_init(void) {}
