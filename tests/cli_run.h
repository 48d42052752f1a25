// Runs the program under test: $STROBE_BIN, or ../strobe seen from the test's directory. Include after cmocka.h.
#ifndef STROBE_TESTS_CLI_RUN_H
#define STROBE_TESTS_CLI_RUN_H

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static char binary[4096], dir[64]; // the program, and the directory that it runs in

struct outcome {
  int code;
  char out[1 << 20], err[8192];
};
static struct outcome got;

static inline void slurp(const char *path, char *text, size_t size) {
  FILE *f = fopen(path, "rb");
  assert_non_null(f);
  text[fread(text, 1, size - 1, f)] = 0;
  fclose(f);
}

// Splits at single blanks; runs in dir, so that file names can be short.
static inline const struct outcome *strobe(const char *arguments) {
  static char none[1];
  char copy[2048], out[96], err[96], *argv[64] = {binary};
  int n = 1;
  snprintf(copy, sizeof copy, "%s", arguments);
  for (char *word = strtok(copy, " "); word && n < 63; word = strtok(NULL, " "))
    argv[n++] = !strcmp(word, "''") ? none : word;
  snprintf(out, sizeof out, "%s.out", dir);
  snprintf(err, sizeof err, "%s.err", dir);
  fflush(NULL);
  const pid_t child = fork();
  assert_true(child >= 0);
  if (!child) {
    if (chdir(dir) || !freopen(out, "wb", stdout) || !freopen(err, "wb", stderr)) _exit(99);
    execv(binary, argv);
    _exit(98);
  }
  int status;
  assert_int_equal(waitpid(child, &status, 0), child);
  if (!WIFEXITED(status)) fail_msg("strobe %s: ended by signal %d", arguments, WTERMSIG(status));
  got.code = WEXITSTATUS(status);
  slurp(out, got.out, sizeof got.out);
  slurp(err, got.err, sizeof got.err);
  unlink(out);
  unlink(err);
  return &got;
}

static inline const struct outcome *works(const char *arguments) {
  const struct outcome *o = strobe(arguments);
  if (o->code) fail_msg("strobe %s: exit %d: %s", arguments, o->code, o->err);
  return o;
}

static inline int entries(void) {
  int n = 0;
  DIR *d = opendir(dir);
  assert_non_null(d);
  for (struct dirent *e; (e = readdir(d));) n++;
  closedir(d);
  return n - 2;
}

// Exit 2, one line on standard error that begins with "strobe: " and holds every word, nothing on standard output, no
// new file.
static inline void refuses(const char *arguments, const char *word, const char *other) {
  const int before = entries();
  const struct outcome *o = strobe(arguments);
  if (o->code != 2) fail_msg("strobe %s: exit %d, not 2; said: %s", arguments, o->code, o->err);
  const char *newline = strchr(o->err, '\n');
  if (strncmp(o->err, "strobe: ", 8) || !newline || newline[1])
    fail_msg("strobe %s: not one sentence: %s", arguments, o->err);
  if (!strstr(o->err, word)) fail_msg("strobe %s: \"%s\" is not in: %s", arguments, word, o->err);
  if (!strstr(o->err, other)) fail_msg("strobe %s: \"%s\" is not in: %s", arguments, other, o->err);
  if (*o->out) fail_msg("strobe %s: printed %s", arguments, o->out);
  if (entries() != before) fail_msg("strobe %s: left a file behind", arguments);
}

static inline const char *path_of(const char *name) {
  static char path[128];
  snprintf(path, sizeof path, "%s/%s", dir, name);
  return path;
}

static inline bool find_binary(const char *self) {
  const char *given = getenv("STROBE_BIN");
  char beside[4096];
  const char *slash = strrchr(self, '/');
  snprintf(beside, sizeof beside, "%.*s../strobe", slash ? (int)(slash + 1 - self) : 0, self);
  if (realpath(given ? given : beside, binary)) return true;
  fprintf(stderr, "%s: not there; build it, or name it in STROBE_BIN\n", given ? given : beside);
  return false;
}

static inline bool make_directory(void) {
  strcpy(dir, "/tmp/strobe-cli-XXXXXX");
  return mkdtemp(dir) != NULL;
}

static inline int remove_directory(void **state) {
  (void)state;
  char command[96];
  snprintf(command, sizeof command, "rm -rf %s", dir);
  return system(command);
}

#endif
