/* The instructions of pickles. See pickle.h. */
#include "checkpoints/pickle.h"

#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "checkpoints/pickle_machine.h"

/* ---- instructions: protocol and plain values ---- */

static Status op_proto(Machine *machine)
{
    uint64_t protocol;
    TRY(machine_read_number(machine, 1, &protocol));
    if (machine->opcode_at == 0 && protocol >= 2 && protocol <= 5) return OK;
    return machine_refuse(machine, "protocol %d, wanted 2 to 5, once, at the start", (int)protocol);
}

/* Frames only help readers of streams; their bytes are run like any others. */
static Status op_frame(Machine *machine)
{
    uint64_t n_bytes;
    TRY(machine_read_number(machine, 8, &n_bytes));
    if (n_bytes <= machine->n_bytes - machine->position) return OK;
    return machine_refuse(machine,
                          "a frame of %llu bytes, %zu are left; it is cut short or damaged",
                          (unsigned long long)n_bytes, machine->n_bytes - machine->position);
}

static Status op_stop(Machine *machine)
{
    TRY(machine_need(machine, 1));
    if (machine->n_stack != 1 || machine->n_marks)
        return machine_refuse(machine, "ends with %d values and %d open MARKs, wanted one value",
                              machine->n_stack, machine->n_marks);
    if (machine->position != machine->n_bytes)
        return machine_refuse(machine, "%zu bytes follow its end",
                              machine->n_bytes - machine->position);
    machine->stopped = true;
    return OK;
}

static Status op_none(Machine *machine)
{
    PickleValue *value;
    return machine_push_new(machine, PICKLE_NONE, &value);
}

static Status push_integer(Machine *machine, PickleKind kind, int64_t number)
{
    PickleValue *value;
    TRY(machine_push_new(machine, kind, &value));
    value->integer = number;
    return OK;
}

static Status op_true(Machine *machine) { return push_integer(machine, PICKLE_BOOL, 1); }
static Status op_false(Machine *machine) { return push_integer(machine, PICKLE_BOOL, 0); }

static Status op_int1(Machine *machine)
{
    uint64_t number;
    TRY(machine_read_number(machine, 1, &number));
    return push_integer(machine, PICKLE_INT, (int64_t)number);
}

static Status op_int2(Machine *machine)
{
    uint64_t number;
    TRY(machine_read_number(machine, 2, &number));
    return push_integer(machine, PICKLE_INT, (int64_t)number);
}

static Status op_int4(Machine *machine)
{
    uint64_t number;
    TRY(machine_read_number(machine, 4, &number));
    return push_integer(machine, PICKLE_INT, (int32_t)(uint32_t)number);
}

/* A number in two's complement, as short as it can be: its top bit is the sign. */
static Status op_long1(Machine *machine)
{
    uint64_t n_bytes, number;
    TRY(machine_read_number(machine, 1, &n_bytes));
    if (n_bytes > 8)
        return machine_refuse(machine, "a number of %d bytes, at most 8 are supported",
                              (int)n_bytes);
    TRY(machine_read_number(machine, (int)n_bytes, &number));
    bool negative = n_bytes && number >> (8 * n_bytes - 1);
    if (negative && n_bytes < 8) number |= UINT64_MAX << (8 * n_bytes);
    return push_integer(machine, PICKLE_INT, (int64_t)number);
}

static Status op_float(Machine *machine)
{
    uint64_t bits;
    PickleValue *value;
    TRY(machine_read_number(machine, 8, &bits));
    TRY(machine_push_new(machine, PICKLE_FLOAT, &value));
    bits = __builtin_bswap64(bits); /* the one number that pickles store big-endian */
    memcpy(&value->real, &bits, sizeof bits);
    return OK;
}

static Status push_text(Machine *machine, int length_bytes)
{
    uint64_t n_bytes;
    const unsigned char *bytes;
    char *text;
    PickleValue *value;
    TRY(machine_read_number(machine, length_bytes, &n_bytes));
    TRY(machine_read_bytes(machine, n_bytes, &bytes));
    TRY(machine_copy_text(machine, bytes, (size_t)n_bytes, &text));
    TRY(machine_push_new(machine, PICKLE_TEXT, &value));
    value->text = text;
    return OK;
}

static Status op_text1(Machine *machine) { return push_text(machine, 1); }
static Status op_text4(Machine *machine) { return push_text(machine, 4); }
static Status op_text8(Machine *machine) { return push_text(machine, 8); }

/* ---- instructions: containers ---- */

static Status op_mark(Machine *machine)
{
    TRY(machine_grow(machine, &machine->marks, &machine->marks_capacity,
                     (size_t)machine->n_marks + 1, sizeof *machine->marks));
    machine->marks[machine->n_marks++] = machine->n_stack;
    return OK;
}

static Status op_empty_list(Machine *machine)
{
    PickleValue *value;
    return machine_push_new(machine, PICKLE_LIST, &value);
}

static Status op_empty_dict(Machine *machine)
{
    PickleValue *value;
    return machine_push_new(machine, PICKLE_DICT, &value);
}

static Status op_empty_tuple(Machine *machine)
{
    PickleValue *value;
    return machine_push_new(machine, PICKLE_TUPLE, &value);
}

static Status make_tuple(Machine *machine, int n)
{
    PickleValue *value;
    TRY(machine_need(machine, n));
    TRY(machine_value(machine, PICKLE_TUPLE, &value));
    TRY(machine_move_items(machine, value, n));
    return machine_push(machine, value);
}

static Status op_tuple1(Machine *machine) { return make_tuple(machine, 1); }
static Status op_tuple2(Machine *machine) { return make_tuple(machine, 2); }
static Status op_tuple3(Machine *machine) { return make_tuple(machine, 3); }

static Status op_tuple(Machine *machine)
{
    int n;
    TRY(machine_close_mark(machine, &n));
    return make_tuple(machine, n);
}

static Status add_items(Machine *machine, int n, PickleKind kind)
{
    PickleValue *container;
    TRY(machine_container_below(machine, n, kind, &container));
    if (kind == PICKLE_DICT && n % 2) return machine_refuse(machine, "a key without a value");
    return machine_move_items(machine, container, n);
}

static Status op_append(Machine *machine) { return add_items(machine, 1, PICKLE_LIST); }
static Status op_set_item(Machine *machine) { return add_items(machine, 2, PICKLE_DICT); }

static Status op_appends(Machine *machine)
{
    int n;
    TRY(machine_close_mark(machine, &n));
    return add_items(machine, n, PICKLE_LIST);
}

static Status op_set_items(Machine *machine)
{
    int n;
    TRY(machine_close_mark(machine, &n));
    return add_items(machine, n, PICKLE_DICT);
}

/* ---- instructions: memo ---- */

/* An index beyond the bytes read so far cannot come from a pickler, which counts up from 0. */
static Status put_memo(Machine *machine, uint64_t index)
{
    TRY(machine_need(machine, 1));
    if (index >= machine->position)
        return machine_refuse(machine, "memo entry %llu, more than bytes read so far",
                              (unsigned long long)index);
    TRY(machine_grow(machine, &machine->memo, &machine->memo_capacity, (size_t)index + 1,
                     sizeof *machine->memo));
    machine->n_memo += !machine->memo[index];
    machine->memo[index] = machine_top(machine);
    return OK;
}

static Status op_put1(Machine *machine)
{
    uint64_t index;
    TRY(machine_read_number(machine, 1, &index));
    return put_memo(machine, index);
}

static Status op_put4(Machine *machine)
{
    uint64_t index;
    TRY(machine_read_number(machine, 4, &index));
    return put_memo(machine, index);
}

/* Puts at the number of entries so far. */
static Status op_memoize(Machine *machine) { return put_memo(machine, (uint64_t)machine->n_memo); }

static Status get_memo(Machine *machine, uint64_t index)
{
    if (index >= (uint64_t)machine->memo_capacity || !machine->memo[index])
        return machine_refuse(machine, "memo entry %llu was never put", (unsigned long long)index);
    return machine_push(machine, machine->memo[index]);
}

static Status op_get1(Machine *machine)
{
    uint64_t index;
    TRY(machine_read_number(machine, 1, &index));
    return get_memo(machine, index);
}

static Status op_get4(Machine *machine)
{
    uint64_t index;
    TRY(machine_read_number(machine, 4, &index));
    return get_memo(machine, index);
}

/* ---- instructions: names and calls ---- */

/* Text up to the end of the line, which is not part of it. */
static Status read_line(Machine *machine, char **out)
{
    const unsigned char *begin = machine->bytes + machine->position;
    const unsigned char *end = memchr(begin, '\n', machine->n_bytes - machine->position);
    if (!end) return machine_refuse(machine, "a name does not end; it is cut short or damaged");
    machine->position += (size_t)(end - begin) + 1;
    return machine_copy_text(machine, begin, (size_t)(end - begin), out);
}

static Status op_global(Machine *machine)
{
    char *module, *name;
    PickleValue *value;
    TRY(read_line(machine, &module));
    TRY(read_line(machine, &name));
    TRY(torch_global(machine, module, name, &value));
    return machine_push(machine, value);
}

static Status op_stack_global(Machine *machine)
{
    PickleValue *value;
    TRY(machine_need(machine, 2));
    const PickleValue *module = machine->stack[machine->n_stack - 2], *name = machine_top(machine);
    if (module->kind != PICKLE_TEXT || name->kind != PICKLE_TEXT)
        return machine_refuse(machine, "a global named by %s and %s, wanted two strings",
                              pickle_kind_name(module->kind), pickle_kind_name(name->kind));
    TRY(torch_global(machine, module->text, name->text, &value));
    machine->n_stack -= 2;
    return machine_push(machine, value);
}

static Status op_reduce(Machine *machine)
{
    PickleValue *value;
    TRY(machine_need(machine, 2));
    TRY(torch_call(machine, machine->stack[machine->n_stack - 2], machine_top(machine), &value));
    machine->n_stack -= 2;
    return machine_push(machine, value);
}

/* Attributes of an object. Only an OrderedDict can have some here (a state dict's _metadata, the
 * versions of its modules); nothing reads them. */
static Status op_build(Machine *machine)
{
    PickleValue *object;
    TRY(machine_container_below(machine, 1, PICKLE_DICT, &object));
    if (machine_top(machine)->kind != PICKLE_DICT)
        return machine_refuse(machine, "attributes given as %s, wanted a dict",
                              pickle_kind_name(machine_top(machine)->kind));
    machine->n_stack--;
    return OK;
}

static Status op_persistent_id(Machine *machine)
{
    PickleValue *value;
    TRY(machine_need(machine, 1));
    TRY(torch_storage(machine, machine_top(machine), &value));
    machine->n_stack--;
    return machine_push(machine, value);
}

/* ---- running ---- */

typedef struct Instruction {
    const char *name;
    Status (*run)(Machine *machine); /* NULL: known, and refused */
} Instruction;

/* All instructions of protocols 0 to 5 by their byte, so that a refusal can name them. */
static const Instruction instructions[256] = {
    [0x80] = {"PROTO", op_proto},
    [0x95] = {"FRAME", op_frame},
    ['.'] = {"STOP", op_stop},
    ['N'] = {"NONE", op_none},
    [0x88] = {"NEWTRUE", op_true},
    [0x89] = {"NEWFALSE", op_false},
    ['K'] = {"BININT1", op_int1},
    ['M'] = {"BININT2", op_int2},
    ['J'] = {"BININT", op_int4},
    [0x8a] = {"LONG1", op_long1},
    ['G'] = {"BINFLOAT", op_float},
    [0x8c] = {"SHORT_BINUNICODE", op_text1},
    ['X'] = {"BINUNICODE", op_text4},
    [0x8d] = {"BINUNICODE8", op_text8},
    ['('] = {"MARK", op_mark},
    [']'] = {"EMPTY_LIST", op_empty_list},
    ['a'] = {"APPEND", op_append},
    ['e'] = {"APPENDS", op_appends},
    [')'] = {"EMPTY_TUPLE", op_empty_tuple},
    [0x85] = {"TUPLE1", op_tuple1},
    [0x86] = {"TUPLE2", op_tuple2},
    [0x87] = {"TUPLE3", op_tuple3},
    ['t'] = {"TUPLE", op_tuple},
    ['}'] = {"EMPTY_DICT", op_empty_dict},
    ['s'] = {"SETITEM", op_set_item},
    ['u'] = {"SETITEMS", op_set_items},
    ['q'] = {"BINPUT", op_put1},
    ['r'] = {"LONG_BINPUT", op_put4},
    [0x94] = {"MEMOIZE", op_memoize},
    ['h'] = {"BINGET", op_get1},
    ['j'] = {"LONG_BINGET", op_get4},
    ['c'] = {"GLOBAL", op_global},
    [0x93] = {"STACK_GLOBAL", op_stack_global},
    ['R'] = {"REDUCE", op_reduce},
    ['b'] = {"BUILD", op_build},
    ['Q'] = {"BINPERSID", op_persistent_id},

    ['0'] = {.name = "POP"},
    ['1'] = {.name = "POP_MARK"},
    ['2'] = {.name = "DUP"},
    ['I'] = {.name = "INT"},
    ['L'] = {.name = "LONG"},
    [0x8b] = {.name = "LONG4"},
    ['F'] = {.name = "FLOAT"},
    ['S'] = {.name = "STRING"},
    ['T'] = {.name = "BINSTRING"},
    ['U'] = {.name = "SHORT_BINSTRING"},
    ['V'] = {.name = "UNICODE"},
    ['B'] = {.name = "BINBYTES"},
    ['C'] = {.name = "SHORT_BINBYTES"},
    [0x8e] = {.name = "BINBYTES8"},
    [0x96] = {.name = "BYTEARRAY8"},
    [0x97] = {.name = "NEXT_BUFFER"},
    [0x98] = {.name = "READONLY_BUFFER"},
    ['l'] = {.name = "LIST"},
    ['d'] = {.name = "DICT"},
    [0x8f] = {.name = "EMPTY_SET"},
    [0x90] = {.name = "ADDITEMS"},
    [0x91] = {.name = "FROZENSET"},
    ['p'] = {.name = "PUT"},
    ['g'] = {.name = "GET"},
    ['P'] = {.name = "PERSID"},
    ['i'] = {.name = "INST"},
    ['o'] = {.name = "OBJ"},
    [0x81] = {.name = "NEWOBJ"},
    [0x92] = {.name = "NEWOBJ_EX"},
    [0x82] = {.name = "EXT1"},
    [0x83] = {.name = "EXT2"},
    [0x84] = {.name = "EXT4"},
};

static Status run_instruction(Machine *machine)
{
    uint64_t opcode;
    machine->opcode_at = machine->position;
    TRY(machine_read_number(machine, 1, &opcode));
    const Instruction *instruction = &instructions[opcode];
    if (!instruction->name)
        return machine_refuse(machine, "0x%02x is no instruction; it is damaged", (unsigned)opcode);
    if (!instruction->run)
        return machine_refuse(
            machine,
            "instruction %s is not allowed: only tensors, dicts, lists, tuples, strings "
            "and numbers are read, and no code is run",
            instruction->name);
    return instruction->run(machine);
}

static Status run_all(Machine *machine)
{
    if (machine->n_bytes < 2 || machine->bytes[0] != 0x80)
        return machine_refuse(machine,
                              "does not start with a protocol; it is no pickle of torch.save");
    while (!machine->stopped) TRY(run_instruction(machine));
    return OK;
}

Status pickle_read(const char *path, const void *bytes, size_t n_bytes, size_t *left_bytes,
                   Pickle **out)
{
    Pickle *pickle = mem_alloc(sizeof *pickle);
    Machine *machine = &pickle->machine;
    *machine = (Machine){
        .path = path, .bytes = bytes, .n_bytes = n_bytes, .left_bytes = left_bytes};
    Status status = run_all(machine);
    if (status != OK) {
        pickle_free(pickle);
        return status;
    }
    pickle->root = machine->stack[0];
    *out = pickle;
    return OK;
}

void pickle_free(Pickle *pickle)
{
    if (!pickle) return;
    machine_free(&pickle->machine);
    free(pickle);
}

const PickleValue *pickle_root(const Pickle *pickle) { return pickle->root; }
