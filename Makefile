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
	$(CC) $(EXTRA) $^ -lcriterion $(LDLIBS) -o $@

tests: $(TESTS)

clean:
	rm -rf $(BUILD)

.PHONY: all tests clean
.SECONDARY:
-include $(shell find $(BUILD) -name '*.d' 2>/dev/null)
