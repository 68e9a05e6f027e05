# Retort. `make demo` and `make test` install what is missing, build and run; `make` only builds.
CC ?= gcc
ARCH ?= native
BUILD ?= build
OPT ?= -O3 -march=$(ARCH) -fno-math-errno -fno-trapping-math
CFLAGS = -std=c17 -D_GNU_SOURCE $(OPT) -g -Wall -Wextra -fopenmp -I. -MMD -MP $(EXTRA)
LDLIBS = -ldnnl -lturbojpeg -ljpeg -lyajl -lyaml -lpng -lzstd -lcrypto -lz -lm -lpthread -fopenmp

LIB_DIRS = base kernels kernels/ref kernels/cpu autograd model data checkpoints
LIB_SRC = $(wildcard $(addsuffix /*.c,$(LIB_DIRS))) $(filter-out train/main.c,$(wildcard train/*.c))
LIB_OBJ = $(LIB_SRC:%.c=$(BUILD)/%.o)
TEST_SRC = $(wildcard tests/test_*.c)
TESTS = $(TEST_SRC:tests/%.c=$(BUILD)/tests/%)

all: $(BUILD)/retort

$(BUILD)/%.o: %.c
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) -c $< -o $@

$(BUILD)/libretort.a: $(LIB_OBJ)
	rm -f $@ && ar rcs $@ $^

$(BUILD)/retort: $(BUILD)/train/main.o $(BUILD)/libretort.a
	$(CC) $(EXTRA) $^ $(LDLIBS) -o $@

$(BUILD)/tests/%: $(BUILD)/tests/%.o $(BUILD)/tests/support.o $(BUILD)/tests/kat.o $(BUILD)/libretort.a
	$(CC) $(EXTRA) $(filter %.o,$^) $(filter %.a,$^) -lcriterion $(LDLIBS) -o $@

# The op cases, and what judges ops with them.
OP_TEST_OBJ = $(patsubst %.c,$(BUILD)/%.o,$(wildcard tests/op_*.c) tests/gradcheck.c)
$(addprefix $(BUILD)/tests/,test_gradcheck test_backends mutants): $(OP_TEST_OBJ)

tests: $(TESTS)

# Damages each gradient rule in turn; every mutant must turn the gradient check red.
mutants: $(BUILD)/tests/mutants
	$<

clean:
	rm -rf $(BUILD)

.PHONY: all tests mutants clean
.SECONDARY:
-include $(shell find $(BUILD) -name '*.d' 2>/dev/null)
