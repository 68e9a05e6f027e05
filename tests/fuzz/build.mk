# make fuzz [FUZZ_SECONDS=600]: every fuzz target for that long; see tests/fuzz/fuzz.h. Included by the Makefile.
# With clang, and only of what reads files: no oneDNN, no OpenMP.
FUZZ_SECONDS ?= 600
FUZZ_CC ?= clang
# Clang 14 has no _Float16 here; its __fp16 converts alike.
FUZZ_CFLAGS = -std=c17 -D_GNU_SOURCE -D_Float16=__fp16 -mf16c -O1 -g -I. -MMD -MP $(SANITIZE)
FUZZ_LDLIBS = -lturbojpeg -lyajl -larchive -lyaml -lpng -lcrypto -lzstd -lz -lm -lpthread
FUZZ_NAMES = $(patsubst tests/fuzz/fuzz_%.c,%,$(filter-out %/fuzz_file.c,$(wildcard tests/fuzz/fuzz_*.c)))
FUZZ_SRC = $(wildcard base/*.c data/*.c checkpoints/*.c tests/fuzz/fuzz_*.c)
FUZZ_OBJ = $(FUZZ_SRC:%.c=$(BUILD)/fuzz/%.o)

fuzz:
	scripts/setup.sh clang libclang-rt-14-dev
	$(MAKE) $(FUZZ_NAMES:%=$(BUILD)/fuzz/fuzz_%)
	scripts/fuzz.sh $(BUILD)/fuzz $(FUZZ_SECONDS) $(FUZZ_NAMES)

$(BUILD)/fuzz/%.o: %.c
	@mkdir -p $(@D)
	$(FUZZ_CC) $(FUZZ_CFLAGS) -fsanitize=fuzzer-no-link -c $< -o $@

$(FUZZ_NAMES:%=$(BUILD)/fuzz/fuzz_%): $(BUILD)/fuzz/fuzz_%: tests/fuzz/main.c $(FUZZ_OBJ)
	$(FUZZ_CC) $(filter-out -MMD -MP,$(FUZZ_CFLAGS)) -fsanitize=fuzzer -DFUZZ_TARGET=fuzz_$* $^ $(FUZZ_LDLIBS) -o $@

# The same functions on the inputs that are kept.
$(BUILD)/tests/test_fuzz: $(patsubst %.c,$(BUILD)/%.o,$(wildcard tests/fuzz/fuzz_*.c))

.PHONY: fuzz
.PRECIOUS: $(BUILD)/fuzz/%.o
