# make demo    installs what is missing, builds, and runs the main job on real tensors
# make check   installs what is missing, builds, and passes all tests
# make help    lists everything else
BUILD ?= build
CC ?= cc
TCC ?= 1        # 0: no libtcc and no Zydis; the JIT is off, everything else works
OPT ?= -O2 -g
WARN := -Wall -Wextra -Wshadow -Wstrict-prototypes -Werror
CFLAGS_ALL := -std=c11 -D_GNU_SOURCE $(OPT) $(WARN) -fPIC -fvisibility=hidden -fopenmp-simd -pthread -I$(BUILD) $(CFLAGS)
TCC := $(strip $(TCC))
ifeq ($(TCC),1)
CFLAGS_ALL += -DSTROBE_TCC=1
ENCODER_LIBS := -lZydis
TCC_OBJ := $(BUILD)/tcc.o
else
CFLAGS_ALL += -DSTROBE_TCC=0
endif
LIBS := $(ENCODER_LIBS) -lm -ldl -lpthread

GEN := $(filter-out gen/main.c gen/cmd_%.c gen/embed.c gen/builtin_gen.c,$(sort $(wildcard gen/*.c)))
RUNTIME := $(sort $(wildcard runtime/*.c))
CLI := gen/main.c $(sort $(wildcard gen/cmd_*.c))
TEMPLATES := $(sort $(wildcard templates/cpu/* templates/cuda/* templates/set/*)) runtime/kernel_abi.h runtime/launch.h runtime/launch_params.h
OBJ := $(patsubst %.c,$(BUILD)/%.o,$(GEN) $(RUNTIME)) $(BUILD)/embedded.o
CLI_OBJ := $(patsubst %.c,$(BUILD)/%.o,$(CLI))
FUZZ := $(patsubst tests/%.c,$(BUILD)/tests/%,$(sort $(wildcard tests/fuzz_*.c)))
TESTS := $(patsubst tests/%.c,$(BUILD)/tests/%,$(sort $(wildcard tests/test_*.c)))

all: $(BUILD)/strobe

$(BUILD)/%.o: %.c Makefile
	@mkdir -p $(@D)
	@echo "  CC $<"; $(CC) $(CFLAGS_ALL) -MMD -MP -c $< -o $@

# Template text as C arrays, in the binary.
$(BUILD)/embed: gen/embed.c
	@mkdir -p $(@D)
	@echo "  CC $<"; $(CC) -std=c11 -O1 $(WARN) $< -o $@
$(BUILD)/embedded.c: $(BUILD)/embed $(TEMPLATES)
	@echo "  EMBED templates"; $(BUILD)/embed $(TEMPLATES) > $@.tmp && mv $@.tmp $@
$(BUILD)/embedded.o: $(BUILD)/embedded.c
	@$(CC) $(CFLAGS_ALL) -Igen -c $< -o $@

# libtcc for use inside a library. Debian ships only a static, non-PIC libtcc.a that calls exit() when memory runs out. One
# relocatable object, with its entry points and what it takes from libc renamed, hides it from hosts that have a libtcc of
# their own, leaves no text relocations, and puts runtime/tcc_host.c between libtcc and the process.
TCC_API := tcc_new tcc_delete tcc_set_error_func tcc_set_options tcc_set_output_type tcc_compile_string tcc_output_file
TCC_LIBC := malloc calloc realloc free exit open close read lseek unlink fdopen fclose fflush fputc fputs fwrite puts putchar getcwd getenv \
  time localtime mprotect sigaction sigemptyset dlopen dlsym dlclose stdout stderr environ
$(BUILD)/tcc.o: Makefile
	@mkdir -p $(@D)
	@test -e "$$($(CC) -print-file-name=libtcc.a)" || { echo "libtcc.a not found: install libtcc-dev, or make TCC=0"; exit 1; }
	@echo "  LD $@"; ld -r --whole-archive "$$($(CC) -print-file-name=libtcc.a)" -o $@.all
	@objcopy $(TCC_API:%=--keep-global-symbol=%) $@.all $@.api
	@objcopy $(foreach s,$(TCC_API) $(TCC_LIBC),--redefine-sym $(s)=strobe_$(if $(filter tcc_%,$(s)),,tcc_)$(s)) \
	  --redefine-sym __assert_fail=strobe_tcc_assert_fail \
	  $(foreach s,printf fprintf vfprintf,--redefine-sym __$(s)_chk=strobe_tcc_$(s)) \
	  --rename-section .data=strobe_tcc_data --rename-section .bss=strobe_tcc_bss $@.api $@.tmp
	@rm -f $@.all $@.api
	@mv $@.tmp $@

$(BUILD)/strobe: $(OBJ) $(CLI_OBJ) $(TCC_OBJ)
	@echo "  LD $@"; $(CC) $(CFLAGS_ALL) $^ -o $@ $(LIBS)

$(BUILD)/tests/%: tests/%.c $(OBJ) $(TCC_OBJ)
	@mkdir -p $(@D)
	@echo "  LD $@"; $(CC) $(CFLAGS_ALL) -MMD -MP $< $(filter %.o,$^) -o $@ $(if $(filter $@,$(FUZZ)),$(FUZZ_LIB),-lcmocka) $(LIBS)

# A CUDA driver that counts, fails and computes on the host, for tests without a GPU.
$(BUILD)/tests/fake_cuda.so: tests/fake_cuda.c tests/fake_cuda.h runtime/launch_params.h
	@mkdir -p $(@D)
	@echo "  LD $@"; $(CC) $(CFLAGS_ALL) -shared $< -o $@ -lm
$(addprefix $(BUILD)/tests/,test_gpu test_gpu_open test_cli_gpu test_tune_gpu): $(BUILD)/tests/fake_cuda.so
$(BUILD)/tests/test_cli_gpu: $(BUILD)/strobe

# ---- begin: compiled-in kernels and the library --------------------------------------------------------------------------
# Kernels of gen/builtin_set.txt for c99, rendered by a program of the first stage and compiled into every binary.
$(BUILD)/builtin_gen: $(patsubst %.c,$(BUILD)/%.o,gen/builtin_gen.c $(GEN)) $(BUILD)/embedded.o
	@echo "  LD $@"; $(CC) $(CFLAGS_ALL) $^ -o $@ $(LIBS)
BUILTIN_CFLAGS = $(filter-out -g,$(CFLAGS_ALL)) $(BUILTIN_OPT) -I.
$(BUILD)/builtin.o: $(BUILD)/builtin_gen gen/builtin_set.txt runtime/builtin.h runtime/kernel_abi.h
	@test $(BUILD)/builtin/table.c -nt gen/builtin_set.txt || rm -rf $(BUILD)/builtin
	@mkdir -p $(BUILD)/builtin && rm -f $(BUILD)/builtin/table.o
	@$(BUILD)/builtin_gen gen/builtin_set.txt $(BUILD)/builtin
	@echo "  CC $(BUILD)/builtin/*.c"
	@for c in $(BUILD)/builtin/*.c; do o=$${c%.c}.o; test $$o -nt $$c && test $$o -nt Makefile || echo $$c; done | \
	  xargs -r -P 2 -n 1 sh -c '$(CC) $(BUILTIN_CFLAGS) -c "$$0" -o "$${0%.c}.o" || exit 255'
	@ld -r $(BUILD)/builtin/*.o -o $@
$(BUILD)/strobe $(TESTS) $(FUZZ): $(BUILD)/builtin.o
# Tests of the program itself.
$(addprefix $(BUILD)/tests/,test_cli test_cli_faults test_cli_tune test_emit_tuned test_output test_own test_own_build test_valgrind): $(BUILD)/strobe

# libstrobe.so exports the functions of strobe.h; libstrobe.a is one object in which every other name is local.
LIB_OBJ := $(OBJ) $(BUILD)/builtin.o $(TCC_OBJ)
$(BUILD)/libstrobe.so: $(LIB_OBJ) runtime/strobe.map
	@echo "  LD $@"; $(CC) $(CFLAGS_ALL) -shared -Wl,-soname,libstrobe.so.0 -Wl,--version-script=runtime/strobe.map -Wl,-z,defs \
	  -Wl,-z,noexecstack $(filter %.o,$^) -o $(BUILD)/libstrobe.so.0 $(LIBS)
	@ln -sf libstrobe.so.0 $@
$(BUILD)/libstrobe.a: $(LIB_OBJ) runtime/strobe.map
	@echo "  AR $@"; ld -r $(filter %.o,$^) -o $(BUILD)/libstrobe.all.o
	@objcopy $$(sed -n 's/^ *\(strobe_[a-z_]*\);$$/--keep-global-symbol=\1/p' runtime/strobe.map) $(BUILD)/libstrobe.all.o \
	  $(BUILD)/libstrobe.o
	@rm -f $@ $(BUILD)/libstrobe.all.o && ar rcs $@ $(BUILD)/libstrobe.o
all: $(BUILD)/libstrobe.so $(BUILD)/libstrobe.a
$(BUILD)/tests/test_library $(BUILD)/tests/test_install $(BUILD)/tests/test_examples: $(BUILD)/libstrobe.so $(BUILD)/libstrobe.a
-include $(BUILD)/gen/builtin_gen.d
# ---- end: compiled-in kernels and the library ----------------------------------------------------------------------------

# ---- begin: installation -------------------------------------------------------------------------------------------------
PREFIX ?= /usr/local
BINDIR ?= $(PREFIX)/bin
LIBDIR ?= $(PREFIX)/lib
INCLUDEDIR ?= $(PREFIX)/include
MANDIR ?= $(PREFIX)/share/man
VERSION := $(shell sed -n 's/^\#define STROBE_VERSION "\(.*\)"/\1/p' runtime/strobe.h)
CMAKEDIR ?= $(LIBDIR)/cmake/strobe
INSTALL ?= install
INSTALLED := $(BINDIR)/strobe $(LIBDIR)/libstrobe.a $(LIBDIR)/libstrobe.so.0 $(LIBDIR)/libstrobe.so $(INCLUDEDIR)/strobe.h \
  $(LIBDIR)/pkgconfig/strobe.pc $(CMAKEDIR)/strobeConfig.cmake $(CMAKEDIR)/strobeConfigVersion.cmake $(MANDIR)/man1/strobe.1

$(BUILD)/strobe.1: $(BUILD)/strobe
	@$(BUILD)/strobe --man > $@.tmp && mv $@.tmp $@
all: $(BUILD)/strobe.1
$(BUILD)/tests/test_install $(BUILD)/tests/test_examples: $(BUILD)/strobe.1

# What a program needs besides libstrobe.a is what the shared library says that it needs.
define PC
prefix=$(PREFIX)
libdir=$(patsubst $(PREFIX)/%,$${prefix}/%,$(LIBDIR))
includedir=$(patsubst $(PREFIX)/%,$${prefix}/%,$(INCLUDEDIR))

Name: strobe
Description: Attention kernels, generated and compiled in process
Version: $(VERSION)
Libs: -L$${libdir} -lstrobe
Libs.private: $(shell readelf -d $(BUILD)/libstrobe.so 2>/dev/null | sed -n 's/.*(NEEDED).*\[lib\(.*\)\.so\..*\]/-l\1/p' | grep -vx -e -lc)
Cflags: -I$${includedir}
endef
install: all
	@$(INSTALL) -d $(addprefix $(DESTDIR),$(sort $(dir $(INSTALLED))))
	@$(INSTALL) -m 755 $(BUILD)/strobe $(DESTDIR)$(BINDIR)/strobe
	@$(INSTALL) -m 644 $(BUILD)/libstrobe.a $(BUILD)/libstrobe.so.0 $(DESTDIR)$(LIBDIR)
	@ln -sf libstrobe.so.0 $(DESTDIR)$(LIBDIR)/libstrobe.so
	@$(INSTALL) -m 644 runtime/strobe.h $(DESTDIR)$(INCLUDEDIR)/strobe.h
	@$(INSTALL) -m 644 $(BUILD)/strobe.1 $(DESTDIR)$(MANDIR)/man1/strobe.1
	$(file >$(BUILD)/strobe.pc,$(PC))
	@$(INSTALL) -m 644 $(BUILD)/strobe.pc $(DESTDIR)$(LIBDIR)/pkgconfig/strobe.pc
	@for f in strobeConfig strobeConfigVersion; do sed -e 's,@VERSION@,$(VERSION),' $(foreach d,LIB INCLUDE BIN, \
	  -e "s,@$d@,$$(realpath -m --relative-to=$(CMAKEDIR) $($dDIR)),") gen/cmake/$$f.cmake.in > $(BUILD)/$$f.cmake && \
	  $(INSTALL) -m 644 $(BUILD)/$$f.cmake $(DESTDIR)$(CMAKEDIR)/$$f.cmake || exit 1; done
	@printf '  INSTALL %s\n' $(INSTALLED:%=$(DESTDIR)%)
uninstall:
	rm -f $(INSTALLED:%=$(DESTDIR)%)
# ---- end: installation ---------------------------------------------------------------------------------------------------

# ---- begin: tests and packages -------------------------------------------------------------------------------------------
# Debian packages, and a file of each that tells whether it is there.
PACKAGES := gcc:/usr/bin/cc libc6-dev:/usr/include/stdio.h libcmocka-dev:/usr/include/cmocka.h binutils:/usr/bin/ld g++:/usr/bin/g++
ifeq ($(TCC),1)
PACKAGES += libtcc-dev:/usr/include/libtcc.h libzydis-dev:/usr/include/Zydis/Zydis.h
endif
MISSING := $(strip $(foreach p,$(PACKAGES),$(if $(wildcard $(lastword $(subst :, ,$(p)))),,$(firstword $(subst :, ,$(p))))))
SUDO := $(if $(filter 0,$(shell id -u)),,sudo)
deps:
ifneq ($(MISSING),)
	@echo "installing $(MISSING)"
	$(SUDO) apt-get update -qq && $(SUDO) DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $(MISSING)
endif

# All tests; then those that look at memory once more under ASan and UBSan, those with threads under TSan, and the library
# once more without libtcc.
WITHOUT_TCC := $(addprefix $(BUILD)-notcc/tests/,test_runtime test_fallback)
# Compiled-in kernels under ASan: by calls, and without UBSan's checks of pointers, in a fifth of gcc's time. clang has no such --param.
SANITIZED_BUILTIN := -Wno-unused-command-line-argument --param asan-instrumentation-with-call-threshold=0 -fno-sanitize=null,bounds,object-size,pointer-overflow
# As many jobs as there are cores, unless the caller said how many.
SUBMAKE = $(MAKE) --no-print-directory $(if $(findstring jobserver,$(MAKEFLAGS)),,-j$(shell nproc))
SANITIZED := $(addprefix $(BUILD)-asan/tests/,test_template test_vop test_problem test_npy test_jit test_verify test_emit test_emit_kernels test_kernels test_random test_specs)
check: deps
	@$(SUBMAKE) tests
	@$(SUBMAKE) BUILD=$(BUILD)-asan OPT="-O1 -g $(SANITIZE)" BUILTIN_OPT="$(SANITIZED_BUILTIN)" $(SANITIZED)
	@$(SUBMAKE) tsan-build
	@$(SUBMAKE) BUILD=$(BUILD)-notcc TCC=0 $(WITHOUT_TCC)
	@$(SUBMAKE) fuzz N=3000
	@STROBE_BIN=$(BUILD)/strobe tests/run.sh $(TESTS) $(SANITIZED) $(RACED) $(WITHOUT_TCC)
tests: all $(TESTS) $(BUILD)/demo

# What threads share, under ThreadSanitizer.
RACED := $(addprefix $(BUILD)-tsan/tests/,test_pool test_threads test_churn)
tsan: tsan-build
	@tests/run.sh $(RACED)
tsan-build: deps
	@$(SUBMAKE) BUILD=$(BUILD)-tsan OPT="-O1 -g -fsanitize=thread" $(RACED)

# tests/corpus, and N mutations of it, through every parser, under ASan and UBSan. FUZZER=1: by clang's libFuzzer, which
# follows coverage; what it finds worth keeping goes to $(BUILD)-fuzzer/corpus. A crash is left in $(BUILD)-asan/tests, or
# $(BUILD)-fuzzer/tests.
N ?= 100000
SEED ?= 1
SANITIZE := -fsanitize=address,undefined -fno-sanitize-recover=undefined
fuzz: deps
ifeq ($(FUZZER),1)
	@$(SUBMAKE) CC=clang BUILD=$(BUILD)-fuzzer OPT="-O1 -g $(SANITIZE) -fsanitize=fuzzer-no-link -DSTROBE_LIBFUZZER -Wno-pass-failed" \
	  FUZZ_LIB=-fsanitize=fuzzer FUZZER= fuzzer-run N=$(N) SEED=$(SEED)
else
	@$(SUBMAKE) BUILD=$(BUILD)-asan OPT="-O1 -g $(SANITIZE)" BUILTIN_OPT="$(SANITIZED_BUILTIN)" fuzz-run N=$(N) SEED=$(SEED)
endif
fuzz-run: $(FUZZ)
	@for f in $(FUZZ:$(BUILD)/tests/fuzz_%=%); do \
	  STROBE_FUZZ_OUT=$(BUILD)/tests $(BUILD)/tests/fuzz_$$f tests/corpus/$$f $(N) $(SEED) || exit 1; done
fuzzer-run: $(FUZZ)
	@for f in $(FUZZ:$(BUILD)/tests/fuzz_%=%); do mkdir -p $(BUILD)/corpus/$$f && echo "fuzz_$$f" && \
	  $(BUILD)/tests/fuzz_$$f -runs=$(N) -seed=$(SEED) -max_len=8192 -timeout=30 -print_final_stats=1 -verbosity=0 \
	    -artifact_prefix=$(BUILD)/tests/crash-$$f- $(BUILD)/corpus/$$f tests/corpus/$$f || exit 1; done

help:
	@echo "make               build/strobe, build/libstrobe.so, build/libstrobe.a"
	@echo "make demo          install what is missing, build, and run on tensors of two trained models"
	@echo "make check         install what is missing, build, and pass all tests"
	@echo "make fuzz N=100000 mutate tests/corpus, for every parser, under ASan and UBSan (SEED=1; FUZZER=1: libFuzzer)"
	@echo "make tsan          the tests with threads, under ThreadSanitizer"
	@echo "make install       to PREFIX=$(PREFIX) (BINDIR, LIBDIR, INCLUDEDIR, MANDIR, CMAKEDIR), below DESTDIR; make uninstall"
	@echo "make clean         remove the build directories"
	@echo "TCC=0              build without libtcc and Zydis (the JIT is off)"
	@echo "CC=clang OPT=-O3 BUILD=DIR CFLAGS=...   as usual"
clean:
	rm -rf $(BUILD) $(BUILD)-asan $(BUILD)-tsan $(BUILD)-notcc $(BUILD)-fuzzer
# ---- end: tests and packages ---------------------------------------------------------------------------------------------

# ---- begin: demo ---------------------------------------------------------------------------------------------------------
DEMO_OBJ := $(patsubst %.c,$(BUILD)/%.o,$(sort $(wildcard examples/*.c)))
$(BUILD)/demo: $(DEMO_OBJ) $(OBJ) $(BUILD)/builtin.o $(TCC_OBJ)
	@echo "  LD $@"; $(CC) $(CFLAGS_ALL) $^ -o $@ $(LIBS)
# The programs in a make of their own, so that also with -j the packages are there first.
demo: deps
	@$(SUBMAKE) $(BUILD)/strobe $(BUILD)/demo
	@CC="$(CC)" $(BUILD)/demo $(BUILD)/strobe $(BUILD)/emitted examples/data
-include $(DEMO_OBJ:.o=.d)
# ---- end: demo -----------------------------------------------------------------------------------------------------------

-include $(OBJ:.o=.d) $(CLI_OBJ:.o=.d) $(TESTS:=.d) $(FUZZ:=.d)
.DELETE_ON_ERROR:
.PHONY: all check clean demo deps fuzz fuzz-run fuzzer-run help install tests uninstall tsan tsan-build
