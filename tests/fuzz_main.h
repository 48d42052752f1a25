// A main for fuzz targets where libFuzzer is not: replays a corpus, then mutates it. Include at the end of a target.
//   fuzz_x DIR [RUNS [SEED]]   every file of DIR, then RUNS mutations of them (default 100000; SEED default 1)
//   fuzz_x FILE...             these files: what repeats a crash
// The work is done in a child process. If it dies, or one input takes half a minute, the parent writes that input to
// crash-NAME in $STROBE_FUZZ_OUT (default /tmp), says so, and exits with status 1. With clang: -DSTROBE_LIBFUZZER
// -fsanitize=fuzzer makes a libFuzzer program of a target instead (make fuzz FUZZER=1).
#ifndef STROBE_LIBFUZZER
#include <dirent.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { FUZZ_MAX_LEN = 16384, FUZZ_MAX_SEEDS = 512, FUZZ_HANG_S = 30 };

struct fuzz_target {
  const char *name;
  size_t max_len;            // of a mutated input, at most FUZZ_MAX_LEN
  const char *const *tokens; // what is put in now and then; may be NULL
  size_t n_tokens;
};

struct fuzz_seed {
  uint8_t *data;
  size_t len;
};

struct fuzz {
  const struct fuzz_target *target;
  struct fuzz_seed seed[FUZZ_MAX_SEEDS];
  int n_seeds;
  uint64_t state;
  // Seen by the parent: what the child is at.
  struct fuzz_shared {
    volatile long done;
    volatile size_t len;
    uint8_t data[FUZZ_MAX_LEN];
  } * shared;
};

static uint32_t fuzz_draw(struct fuzz *f, size_t below) { // below >= 1
  f->state = f->state * 6364136223846793005u + 1442695040888963407u;
  return (uint32_t)((f->state >> 33) % below);
}

// One input, in memory of its exact size, so that AddressSanitizer sees an overrun.
static void fuzz_one(struct fuzz *f, const uint8_t *data, size_t len) {
  if (len <= FUZZ_MAX_LEN) {
    memcpy(f->shared->data, data, len);
    f->shared->len = len;
  }
  uint8_t *copy = malloc(len ? len : 1);
  if (!copy) return;
  memcpy(copy, data, len);
  LLVMFuzzerTestOneInput(copy, len);
  free(copy);
  f->shared->done++;
}

// ---- mutation ----

static size_t fuzz_insert(uint8_t *data, size_t len, size_t max, size_t at, const uint8_t *put, size_t n) {
  if (len + n > max) return len;
  memmove(data + at + n, data + at, len - at);
  memcpy(data + at, put, n);
  return len + n;
}

static size_t fuzz_overwrite_number(struct fuzz *f, uint8_t *data, size_t len, size_t at) {
  static const uint64_t edges[] = {0,          1,          2,          0x7f,       0x80, 0xff, 0x7fff, 0xffff,
                                   0x7fffffff, 0x80000000, 0xffffffff, UINT64_MAX, 64,   1000, 4096};
  uint64_t value = edges[fuzz_draw(f, sizeof edges / sizeof *edges)] + fuzz_draw(f, 3) - 1;
  const size_t width = (size_t)1 << fuzz_draw(f, 4), room = len - at;
  memcpy(data + at, &value, width < room ? width : room);
  return len;
}

static size_t fuzz_edit(struct fuzz *f, uint8_t *data, size_t len) {
  const struct fuzz_target *t = f->target;
  const size_t at = fuzz_draw(f, len + 1), room = len - at, n = 1 + fuzz_draw(f, 8), max = t->max_len;
  const struct fuzz_seed *other = &f->seed[fuzz_draw(f, (size_t)f->n_seeds)];
  uint8_t part[64];
  size_t from, size;
  switch (fuzz_draw(f, t->n_tokens ? 10 : 8)) {
  case 0:
    if (room) data[at] = (uint8_t)fuzz_draw(f, 256);
    return len;
  case 1:
    if (room) data[at] ^= (uint8_t)(1u << fuzz_draw(f, 8));
    return len;
  case 2: return fuzz_overwrite_number(f, data, len, at);
  case 3: // bytes taken out
    size = n < room ? n : room;
    memmove(data + at, data + at + size, room - size);
    return len - size;
  case 4: return fuzz_draw(f, 8) ? len : at; // cut, rarely
  case 5:                                    // a part of the input again
    size = room < sizeof part ? room : sizeof part;
    size = size ? 1 + fuzz_draw(f, size) : 0;
    memcpy(part, data + at, size);
    return fuzz_insert(data, len, max, fuzz_draw(f, len + 1), part, size);
  case 6: // a part of another seed
    from = fuzz_draw(f, other->len + 1);
    size = other->len - from < sizeof part ? other->len - from : sizeof part;
    size = size ? 1 + fuzz_draw(f, size) : 0;
    return fuzz_insert(data, len, max, at, other->data + from, size);
  case 7: // the rest of another seed
    from = fuzz_draw(f, other->len + 1);
    size = other->len - from;
    if (fuzz_draw(f, 4) || at + size > max) return len;
    memcpy(data + at, other->data + from, size);
    return at + size;
  default: {
    const char *token = t->tokens[fuzz_draw(f, t->n_tokens)];
    return fuzz_insert(data, len, max, at, (const uint8_t *)token, strlen(token));
  }
  }
}

static void fuzz_mutations(struct fuzz *f, long runs) {
  static uint8_t data[FUZZ_MAX_LEN];
  for (long i = 0; i < runs; i++) {
    const struct fuzz_seed *s = &f->seed[fuzz_draw(f, (size_t)f->n_seeds)];
    size_t len = s->len < f->target->max_len ? s->len : f->target->max_len;
    memcpy(data, s->data, len);
    for (uint32_t edits = 1 + fuzz_draw(f, fuzz_draw(f, 4) ? 4 : 16); edits; edits--) len = fuzz_edit(f, data, len);
    fuzz_one(f, data, len);
  }
}

// ---- files ----

static bool fuzz_load(struct fuzz *f, const char *path) {
  FILE *file = fopen(path, "rb");
  uint8_t *data = malloc(1 << 20);
  if (!file || !data || f->n_seeds == FUZZ_MAX_SEEDS) {
    if (!file) perror(path);
    free(data);
    return file && !fclose(file) && false;
  }
  const size_t len = fread(data, 1, 1 << 20, file);
  fclose(file);
  uint8_t *exact = realloc(data, len ? len : 1);
  f->seed[f->n_seeds++] = (struct fuzz_seed){exact ? exact : data, len};
  return true;
}

static int fuzz_visible(const struct dirent *e) { return e->d_name[0] != '.'; }

static bool fuzz_load_directory(struct fuzz *f, const char *path) {
  struct dirent **entry;
  const int n = scandir(path, &entry, fuzz_visible, alphasort); // sorted: the same run everywhere
  bool ok = n > 0;
  for (int i = 0; i < n; i++) {
    char name[4096];
    snprintf(name, sizeof name, "%s/%s", path, entry[i]->d_name);
    ok = fuzz_load(f, name) && ok;
    free(entry[i]);
  }
  if (n >= 0) free(entry);
  if (!n) fprintf(stderr, "%s: holds no files\n", path);
  return ok;
}

// ---- parent and child ----

static int fuzz_crashed(const struct fuzz *f, const char *how, int number) {
  char path[4096];
  const char *dir = getenv("STROBE_FUZZ_OUT");
  snprintf(path, sizeof path, "%s/crash-%s", dir ? dir : "/tmp", f->target->name);
  FILE *file = fopen(path, "wb");
  const bool written = file && fwrite(f->shared->data, 1, f->shared->len, file) == f->shared->len;
  if (file) fclose(file);
  fprintf(stderr, "fuzz_%s: %s %d after %ld inputs; the next one is %s %s\n", f->target->name, how, number,
          f->shared->done, written ? "in" : "not in", path);
  return 1;
}

static int fuzz_watch(const struct fuzz *f, pid_t child) {
  long seen = -1;
  for (double still = 0;; still += 0.05) {
    int status;
    const pid_t ended = waitpid(child, &status, WNOHANG);
    if (ended < 0) return perror("waitpid"), 1;
    if (ended && WIFEXITED(status) && !WEXITSTATUS(status)) return 0;
    if (ended && WIFSIGNALED(status)) return fuzz_crashed(f, "signal", WTERMSIG(status));
    if (ended) return fuzz_crashed(f, "exit status", WEXITSTATUS(status));
    if (f->shared->done != seen) still = 0, seen = f->shared->done;
    if (still > FUZZ_HANG_S) {
      kill(child, SIGKILL);
      waitpid(child, &status, 0);
      return fuzz_crashed(f, "hang, seconds:", FUZZ_HANG_S);
    }
    usleep(50000);
  }
}

static double fuzz_clock(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void fuzz_free(struct fuzz *f) {
  for (int i = 0; i < f->n_seeds; i++) free(f->seed[i].data);
  if (f->shared) munmap(f->shared, sizeof *f->shared);
}

static int fuzz_run(struct fuzz *f, long runs) {
  f->shared = mmap(NULL, sizeof *f->shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (f->shared == MAP_FAILED) return f->shared = NULL, perror("mmap"), 2;
  const double start = fuzz_clock();
  fflush(NULL);
  const pid_t child = fork();
  if (child < 0) return perror("fork"), 2;
  if (!child) {
    for (int i = 0; i < f->n_seeds; i++) fuzz_one(f, f->seed[i].data, f->seed[i].len);
    fuzz_mutations(f, runs);
    fuzz_free(f); // what is left is the target's
    exit(0);
  }
  const int status = fuzz_watch(f, child);
  if (!status)
    printf("fuzz_%s: %d files of the corpus and %ld mutations, %.1f s\n", f->target->name, f->n_seeds, runs,
           fuzz_clock() - start);
  return status;
}

static int fuzz_main(const struct fuzz_target *target, int argc, char **argv) {
  static struct fuzz f;
  char *end = "";
  DIR *dir = argc > 1 ? opendir(argv[1]) : NULL;
  const long runs = dir && argc > 2 ? strtol(argv[2], &end, 10) : dir ? 100000 : 0;
  f = (struct fuzz){.target = target, .state = dir && argc > 3 ? strtoull(argv[3], NULL, 10) : 1};
  if (dir) closedir(dir);
  if (argc < 2 || *end) return fprintf(stderr, "usage: fuzz_%s DIR [RUNS [SEED]], or FILE...\n", target->name), 2;
  bool ok = dir ? fuzz_load_directory(&f, argv[1]) : true;
  for (int i = 1; i < argc && !dir; i++) ok = fuzz_load(&f, argv[i]) && ok;
  const int status = ok ? fuzz_run(&f, runs) : 2;
  fuzz_free(&f);
  return status;
}

#define FUZZ_MAIN(...)                                                                                                 \
  int main(int argc, char **argv) {                                                                                    \
    static const struct fuzz_target target = {__VA_ARGS__};                                                            \
    return fuzz_main(&target, argc, argv);                                                                             \
  }
#else
#include <stdint.h>
#include <string.h>

struct fuzz_target {
  const char *name;
  size_t max_len;
  const char *const *tokens;
  size_t n_tokens;
};

size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max, unsigned seed);

// libFuzzer's own mutations, and now and then a token.
static size_t fuzz_mutate(const struct fuzz_target *t, uint8_t *data, size_t size, size_t max, unsigned seed) {
  const char *token = t->tokens[seed / 4 % t->n_tokens];
  const size_t n = strlen(token), at = seed / 1024 % (size + 1);
  if (seed % 4 || size + n > max || size + n > t->max_len) return LLVMFuzzerMutate(data, size, max);
  memmove(data + at + n, data + at, size - at);
  memcpy(data + at, token, n);
  return size + n;
}

#define FUZZ_MAIN(...)                                                                                                 \
  size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max, unsigned seed) {                              \
    static const struct fuzz_target target = {__VA_ARGS__};                                                            \
    return fuzz_mutate(&target, data, size, max, seed);                                                                \
  }
#endif
