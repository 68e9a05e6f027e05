/* Memory, input and stack of the pickle reader. See pickle_machine.h. */
#include "checkpoints/pickle_machine.h"

#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"

Status machine_refuse(const Machine *machine, const char *format, ...)
{
    char text[512];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    return status_fail(E_FORMAT, "%s: pickle, byte %zu: %s", machine->path, machine->opcode_at,
                       text);
}

/* ---- memory ---- */

struct Block {
    Block *next;
    size_t used_bytes, room_bytes;
    int64_t room[]; /* aligned for every value, pointer and number here */
};

enum { BLOCK_BYTES = 64 << 10, MIN_ITEMS = 4 };

Status machine_take(Machine *machine, size_t n_bytes, void **out)
{
    size_t step = sizeof(int64_t), taken = (n_bytes + step - 1) / step * step;
    Block *block = machine->blocks;
    if (!block || block->room_bytes - block->used_bytes < taken) {
        size_t room_bytes = taken > BLOCK_BYTES ? taken : BLOCK_BYTES;
        if (room_bytes > *machine->left_bytes)
            return machine_refuse(machine, "needs more memory than a file of this size may");
        *machine->left_bytes -= room_bytes;
        block = mem_alloc(sizeof *block + room_bytes);
        *block = (Block){.next = machine->blocks, .room_bytes = room_bytes};
        machine->blocks = block;
    }
    *out = (char *)block->room + block->used_bytes;
    block->used_bytes += taken;
    return OK;
}

Status machine_value(Machine *machine, PickleKind kind, PickleValue **out)
{
    void *memory = NULL; /* -O3 cannot see that a failure is never OK */
    TRY(machine_take(machine, sizeof **out, &memory));
    *out = memory;
    (*out)->kind = kind;
    return OK;
}

void machine_free(Machine *machine)
{
    for (Block *block = machine->blocks, *next; block; block = next) {
        next = block->next;
        free(block);
    }
}

/* A container that grows moves to new room and leaves its old one behind, so all its rooms together
 * take at most three times its size. */
Status machine_grow(Machine *machine, void *array, int *capacity, size_t need, size_t element_bytes)
{
    void *old, *room = NULL;
    if (need <= (size_t)*capacity) return OK;
    size_t grown = *capacity ? (size_t)*capacity : MIN_ITEMS;
    while (grown < need) grown *= 2;
    if (grown > INT_MAX)
        return machine_refuse(machine, "more than %d values in one place", INT_MAX);
    TRY(machine_take(machine, grown * element_bytes, &room));
    memcpy(&old, array, sizeof old);
    if (*capacity) memcpy(room, old, (size_t)*capacity * element_bytes);
    memcpy(array, &room, sizeof room);
    *capacity = (int)grown;
    return OK;
}

/* ---- input ---- */

Status machine_read_bytes(Machine *machine, uint64_t n_bytes, const unsigned char **out)
{
    if (n_bytes > machine->n_bytes - machine->position)
        return machine_refuse(machine,
                              "wants %llu bytes more, %zu are left; it is cut short or damaged",
                              (unsigned long long)n_bytes, machine->n_bytes - machine->position);
    *out = machine->bytes + machine->position;
    machine->position += (size_t)n_bytes;
    return OK;
}

Status machine_read_number(Machine *machine, int n_bytes, uint64_t *out)
{
    const unsigned char *bytes = NULL;
    TRY(machine_read_bytes(machine, (uint64_t)n_bytes, &bytes));
    *out = 0;
    for (int i = 0; i < n_bytes; i++) *out |= (uint64_t)bytes[i] << (8 * i);
    return OK;
}

bool pickle_utf8(const char *text, size_t n_bytes)
{
    static const uint32_t smallest[] = {0, 0x80, 0x800, 0x10000};
    const unsigned char *byte = (const unsigned char *)text, *end = byte + n_bytes;
    while (byte < end) {
        unsigned char lead = *byte++;
        int more = lead < 0x80       ? 0
                   : lead >> 5 == 6  ? 1
                   : lead >> 4 == 14 ? 2
                   : lead >> 3 == 30 ? 3
                                     : -1;
        if (more < 0 || end - byte < more) return false;
        uint32_t code = more ? lead & (0x3fu >> more) : lead;
        for (int i = 0; i < more; i++, byte++) {
            if (*byte >> 6 != 2) return false;
            code = code << 6 | (*byte & 0x3f);
        }
        if (code < smallest[more] || code > 0x10ffff || (code >= 0xd800 && code < 0xe000))
            return false;
    }
    return true;
}

Status machine_copy_text(Machine *machine, const unsigned char *bytes, size_t n_bytes, char **out)
{
    void *memory = NULL; /* -O3 cannot see that a failure is never OK */
    if (memchr(bytes, 0, n_bytes)) return machine_refuse(machine, "a string holds a zero byte");
    if (!pickle_utf8((const char *)bytes, n_bytes))
        return machine_refuse(machine, "a string is not UTF-8");
    TRY(machine_take(machine, n_bytes + 1, &memory));
    memcpy(memory, bytes, n_bytes);
    *out = memory;
    return OK;
}

/* ---- the stack ---- */

Status machine_push(Machine *machine, PickleValue *value)
{
    TRY(machine_grow(machine, &machine->stack, &machine->stack_capacity,
                     (size_t)machine->n_stack + 1, sizeof *machine->stack));
    machine->stack[machine->n_stack++] = value;
    return OK;
}

Status machine_push_new(Machine *machine, PickleKind kind, PickleValue **out)
{
    TRY(machine_value(machine, kind, out));
    return machine_push(machine, *out);
}

/* Values above the last MARK, or above the bottom: what an instruction may take. */
static int reachable(const Machine *machine)
{
    return machine->n_stack - (machine->n_marks ? machine->marks[machine->n_marks - 1] : 0);
}

Status machine_need(const Machine *machine, int n)
{
    if (reachable(machine) >= n) return OK;
    return machine_refuse(machine, "takes %d values, %d are on the stack", n, reachable(machine));
}

PickleValue *machine_top(const Machine *machine) { return machine->stack[machine->n_stack - 1]; }

Status machine_close_mark(Machine *machine, int *n)
{
    if (!machine->n_marks) return machine_refuse(machine, "no MARK is open");
    *n = reachable(machine);
    machine->n_marks--;
    return OK;
}

Status machine_move_items(Machine *machine, PickleValue *container, int n)
{
    TRY(machine_grow(machine, &container->items, &container->capacity,
                     (size_t)container->n_items + (size_t)n, sizeof *container->items));
    machine->n_stack -= n;
    for (int i = 0; i < n; i++)
        container->items[container->n_items++] = machine->stack[machine->n_stack + i];
    return OK;
}

Status machine_container_below(const Machine *machine, int n, PickleKind kind, PickleValue **out)
{
    TRY(machine_need(machine, n + 1));
    *out = machine->stack[machine->n_stack - n - 1];
    if ((*out)->kind == kind) return OK;
    return machine_refuse(machine, "got %s, wanted %s", pickle_kind_name((*out)->kind),
                          pickle_kind_name(kind));
}

const char *pickle_kind_name(PickleKind kind)
{
    static const char *const names[] = {
        [PICKLE_NONE] = "None",          [PICKLE_BOOL] = "a boolean",
        [PICKLE_INT] = "a whole number", [PICKLE_FLOAT] = "a fraction",
        [PICKLE_TEXT] = "a string",      [PICKLE_LIST] = "a list",
        [PICKLE_TUPLE] = "a tuple",      [PICKLE_DICT] = "a dict",
        [PICKLE_GLOBAL] = "a class",     [PICKLE_STORAGE] = "a storage",
        [PICKLE_TENSOR] = "a tensor",
    };
    return names[kind];
}
