// .npy files: what is read, what is refused and how, and that writing is whole or not at all.
#include "../runtime/npy.h" // before cmocka.h, which has a macro named fail

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <dirent.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

static char directory[] = "/tmp/strobe-npy-XXXXXX";
static char path[64];

static int setup(void **state) {
  (void)state;
  if (!mkdtemp(directory)) return -1;
  snprintf(path, sizeof path, "%s/a.npy", directory);
  return 0;
}

static int teardown(void **state) {
  (void)state;
  unlink(path);
  return rmdir(directory); // fails if a test left anything else behind
}

static int files_in_directory(void) {
  DIR *d = opendir(directory);
  assert_non_null(d);
  int n = 0;
  for (struct dirent *e; (e = readdir(d));) n += e->d_name[0] != '.';
  closedir(d);
  return n;
}

// A file's bytes: magic, version, header text, zeros.
static size_t file_bytes(unsigned char *out, int version, const char *text, size_t data) {
  const size_t n = strlen(text), start = version == 1 ? 10 : 12;
  memset(out, 0, 1024);
  memcpy(out, "\x93NUMPY", 6);
  out[6] = (unsigned char)version;
  out[8] = (unsigned char)n;
  memcpy(out + start, text, n);
  return start + n + data;
}

static void parse_refuses(const char *text, size_t data, const char *sentence) {
  unsigned char bytes[1024];
  struct npy a;
  struct error err = {0};
  size_t offset, len = file_bytes(bytes, 1, text, data);
  assert_int_equal(npy_parse(bytes, len, "x.npy", &a, &offset, &err), STROBE_INVALID);
  if (!strstr(err.text, sentence)) fail_msg("%s: expected \"%s\"", err.text, sentence);
  assert_memory_equal(err.text, "x.npy: ", 7);
  assert_null(a.data);
}

static void accepts_all_versions_and_types(void **state) {
  (void)state;
  static const struct {
    const char *text;
    enum npy_type type;
    int rank;
    size_t bytes;
  } cases[] = {
      {"{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }", NPY_F4, 2, 24},
      {"{'descr': '<f8', 'fortran_order': False, 'shape': (3,), }  \n", NPY_F8, 1, 24},
      {"{\"shape\":(),\"descr\":\"|u1\",\"fortran_order\":False}", NPY_U1, 0, 1},
      {"{'shape': (1, 2L, 1, 1, 1, 1, 1, 2), 'descr': '<u2', 'fortran_order': False}", NPY_U2, 8, 8},
      {"{'descr': '<i4', 'fortran_order': False, 'shape': (5, 0), }", NPY_I4, 2, 0},
  };
  for (int version = 1; version <= 3; version++)
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
      unsigned char bytes[1024];
      struct npy a;
      struct error err = {0};
      size_t offset, len = file_bytes(bytes, version, cases[i].text, cases[i].bytes);
      assert_int_equal(npy_parse(bytes, len, "x", &a, &offset, &err), 0);
      assert_int_equal(a.type, cases[i].type);
      assert_int_equal(a.rank, cases[i].rank);
      assert_int_equal(a.bytes, cases[i].bytes);
      assert_int_equal(offset + a.bytes, len);
      for (size_t cut = 0; cut < len; cut++) // every prefix is refused
        assert_int_equal(npy_parse(bytes, cut, "x", &a, &offset, NULL), STROBE_INVALID);
    }
}

static void refuses_with_a_sentence(void **state) {
  (void)state;
  parse_refuses("{'descr': '>f4', 'fortran_order': False, 'shape': (1,), }", 4, "dtype >f4; allowed: <f4");
  parse_refuses("{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (1,), }", 4, "not a plain type");
  parse_refuses("{'descr': '<f4', 'fortran_order': True, 'shape': (1,), }", 4, "Fortran order; allowed: C order");
  parse_refuses("{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }", 20,
                "truncated: its shape and dtype take 24 bytes");
  parse_refuses("{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }", 25, "longer than its header says");
  parse_refuses("{'descr': '<f4', 'fortran_order': False, 'shape': (1,1,1,1,1,1,1,1,1), }", 4, "rank above 8");
  parse_refuses("{'descr': '<f4', 'fortran_order': False, 'shape': (4294967296, 4294967296), }", 0, "too large");
  parse_refuses("{'descr': '<f8', 'fortran_order': False, 'shape': (2305843009213693952,), }", 0, "too large");
  parse_refuses("{'descr': '<f4', 'fortran_order': False, 'shape': (9223372036854775808,), }", 0, "below 2^63");
  parse_refuses("{'descr': '<f4', 'fortran_order': False, 'shape': (-1,), }", 0, "below 2^63");
  parse_refuses("{'descr': '<f4', 'fortran_order': False, }", 0, "lacks");
  parse_refuses("{'descr': '<f4', 'descr': '<f4', 'fortran_order': False, 'shape': (), }", 4, "twice");
  parse_refuses("{'descr': '<f4', 'fortran_order': False, 'shape': (), 'x': 1}", 4, "a key other than");
  parse_refuses("{'descr': '<f4', 'fortran_order': False, 'shape': ()} }", 4, "goes on after");
  struct npy a;
  struct error err = {0};
  size_t offset;
  assert_int_equal(npy_parse("\x93NUMPX\1\0\0\0", 10, "x", &a, &offset, &err), STROBE_INVALID);
  assert_non_null(strstr(err.text, "does not begin with"));
  err = (struct error){0};
  assert_int_equal(npy_parse("\x93NUMPY\4\0\0\0", 10, "x", &a, &offset, &err), STROBE_INVALID);
  assert_non_null(strstr(err.text, "version 4.0; allowed: 1.0, 2.0, 3.0"));
}

static void round_trip(void **state) {
  (void)state;
  float data[2 * 3 * 4];
  for (int i = 0; i < 24; i++) data[i] = (float)i / 3;
  for (int rank = 0; rank <= NPY_MAX_RANK; rank++) {
    int64_t shape[NPY_MAX_RANK] = {2, 3, 4, 1, 1, 1, 1, 1}, n = 1;
    for (int i = 0; i < rank; i++) n *= shape[i];
    struct npy a;
    struct error err = {0};
    assert_int_equal(npy_write(path, NPY_F4, rank, shape, data, &err), 0);
    assert_int_equal(files_in_directory(), 1);
    assert_int_equal(npy_read(path, &a, &err), 0);
    assert_int_equal(a.rank, rank);
    assert_int_equal(a.elements, n);
    assert_int_equal((uintptr_t)a.data % 64, 0);
    assert_memory_equal(a.data, data, (size_t)n * sizeof *data);
    assert_int_equal(npy_expect(&a, path, 1u << NPY_F4, rank, shape, &err), 0);
    npy_free(&a);
    assert_null(a.data);
  }
  const int64_t empty[] = {3, 0};
  struct npy a;
  assert_int_equal(npy_write(path, NPY_U2, 2, empty, NULL, NULL), 0);
  assert_int_equal(npy_read(path, &a, NULL), 0);
  assert_int_equal(a.bytes, 0);
  npy_free(&a);
}

static void expectations_say_what_is_allowed(void **state) {
  (void)state;
  struct npy a = {.type = NPY_F8, .rank = 3, .shape = {1, 2, 3}, .elements = 6, .bytes = 48};
  const int64_t any4[] = {-1, -1, -1, 64}, three[] = {-1, 2, 4};
  struct error err = {0};
  assert_int_equal(npy_expect(&a, "q.npy", 1u << NPY_F4 | 1u << NPY_U2, 3, three, &err), STROBE_INVALID);
  assert_string_equal(err.text, "q.npy: dtype float64; allowed: float32 or uint16");
  err = (struct error){0};
  assert_int_equal(npy_expect(&a, "q.npy", 1u << NPY_F8, 4, any4, &err), STROBE_INVALID);
  assert_string_equal(err.text, "q.npy: rank 3, shape (1, 2, 3); allowed: rank 4, shape (any, any, any, 64)");
  err = (struct error){0};
  assert_int_equal(npy_expect(&a, "q.npy", 1u << NPY_F8, 3, three, &err), STROBE_INVALID);
  assert_string_equal(err.text, "q.npy: shape (1, 2, 3); allowed: (any, 2, 4)");
}

static void reading_what_is_not_a_file(void **state) {
  (void)state;
  struct npy a;
  struct error err = {0};
  assert_int_equal(npy_read("/nonexistent/x.npy", &a, &err), STROBE_IO);
  assert_string_equal(err.text, "cannot open /nonexistent/x.npy: No such file or directory");
  assert_int_equal(npy_read(directory, &a, NULL), STROBE_IO);
  char fifo[80];
  snprintf(fifo, sizeof fifo, "%s/fifo", directory);
  assert_int_equal(mkfifo(fifo, 0600), 0);
  err = (struct error){0};
  assert_int_equal(npy_read(fifo, &a, &err), STROBE_IO); // and does not wait for a writer
  assert_non_null(strstr(err.text, "not a regular file"));
  assert_int_equal(npy_write(fifo, NPY_U1, 0, NULL, "x", NULL), STROBE_IO);
  unlink(fifo);
}

// A write that fails half-way (here at a limit on the size of files) leaves the old file and nothing else.
static void failed_write_leaves_nothing(void **state) {
  (void)state;
  const float old[1] = {1.5f};
  const int64_t one[] = {1}, big[] = {65536};
  float *data = calloc(65536, sizeof *data);
  assert_non_null(data);
  assert_int_equal(npy_write(path, NPY_F4, 1, one, old, NULL), 0);
  assert_int_equal(chmod(path, 0640), 0);
  struct rlimit before, low;
  assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
  low = (struct rlimit){4096, before.rlim_max};
  void (*handler)(int) = signal(SIGXFSZ, SIG_IGN);
  assert_int_equal(setrlimit(RLIMIT_FSIZE, &low), 0);
  struct error err = {0};
  int status = npy_write(path, NPY_F4, 1, big, data, &err);
  assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
  signal(SIGXFSZ, handler);
  assert_int_equal(status, STROBE_IO);
  assert_non_null(strstr(err.text, "File too large"));
  assert_int_equal(files_in_directory(), 1);
  struct npy a;
  assert_int_equal(npy_read(path, &a, NULL), 0);
  assert_int_equal(a.elements, 1);
  assert_memory_equal(a.data, old, sizeof old);
  npy_free(&a);
  assert_int_equal(npy_write(path, NPY_F4, 1, big, data, NULL), 0);
  struct stat st;
  assert_int_equal(stat(path, &st), 0);
  assert_int_equal(st.st_mode & 0777, 0640); // the mode of the file it replaced
  assert_int_equal(npy_write("/nonexistent/x.npy", NPY_F4, 1, one, old, NULL), STROBE_IO);
  assert_int_equal(npy_write(directory, NPY_F4, 1, one, old, NULL), STROBE_IO);
  const int64_t negative[] = {-1}, huge[] = {INT64_MAX, 3};
  assert_int_equal(npy_write(path, NPY_F4, 1, negative, old, NULL), STROBE_INVALID);
  assert_int_equal(npy_write(path, NPY_F4, 2, huge, old, NULL), STROBE_INVALID);
  assert_int_equal(npy_write(path, NPY_F4, 9, one, old, NULL), STROBE_INVALID);
  free(data);
}

static void a_link_is_written_through(void **state) {
  (void)state;
  char link[300];
  const float old[1] = {1.5f}, new[1] = {2.5f};
  const int64_t one[] = {1};
  struct stat st;
  struct npy a;
  snprintf(link, sizeof link, "%s/link.npy", directory);
  assert_int_equal(npy_write(path, NPY_F4, 1, one, old, NULL), 0);
  assert_int_equal(symlink(strrchr(path, '/') + 1, link), 0);
  assert_int_equal(npy_write(link, NPY_F4, 1, one, new, NULL), 0);
  assert_int_equal(lstat(link, &st), 0);
  assert_true(S_ISLNK(st.st_mode));
  assert_int_equal(npy_read(path, &a, NULL), 0);
  assert_memory_equal(a.data, new, sizeof new);
  npy_free(&a);
  assert_int_equal(unlink(link), 0);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(accepts_all_versions_and_types),
      cmocka_unit_test(refuses_with_a_sentence),
      cmocka_unit_test(round_trip),
      cmocka_unit_test(expectations_say_what_is_allowed),
      cmocka_unit_test(reading_what_is_not_a_file),
      cmocka_unit_test(failed_write_leaves_nothing),
      cmocka_unit_test(a_link_is_written_through),
  };
  return cmocka_run_group_tests_name("npy", tests, setup, teardown);
}
