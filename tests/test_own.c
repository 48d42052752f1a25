// Sets of emitted files as the project that owns them sees them: what is in the directory, that it is the same
// everywhere, that --check tells when it is not, and that bad sets leave nothing behind. Runs $STROBE_BIN, or ../strobe
// seen from here. What compilers make of them is in test_own_build.c.
#include "../gen/file.h"
#include "../gen/json_read.h"
#include "../gen/set.h"
#include "../gen/sha256.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "cli_run.h"
#include "shell.h"

#include <sys/resource.h>

static const char set_text[] = "# two specs\n"
                               "d16:f32:causal target=avx512,c99   # everywhere\n"
                               "\r\n"
                               "d8v16:f32 --target c99 --printer scalar --set block_n=32\n";

static void write_text(const char *name, const char *text) {
  FILE *f = fopen(path_of(name), "wb");
  assert_non_null(f);
  assert_true(fwrite(text, 1, strlen(text), f) == strlen(text));
  assert_int_equal(fclose(f), 0);
}

static char *read_text(const char *name) {
  struct buf b = {0};
  assert_int_equal(file_read(path_of(name), &b, NULL), 0);
  return b.data;
}

static int start(void **state) {
  (void)state;
  if (!make_directory()) return -1;
  write_text("set.txt", set_text);
  return 0;
}

// ---- parts ----

static void hashes_are_those_of_the_standard(void **state) {
  (void)state;
  static char text[1000000];
  const struct {
    const char *text;
    size_t len;
    const char *hex;
  } rows[] = {{"", 0, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"},
              {"abc", 3, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"},
              {"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq", 56,
               "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1"},
              {text, sizeof text, "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0"}};
  memset(text, 'a', sizeof text);
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
    char hex[65];
    sha256_hex(rows[i].text, rows[i].len, hex);
    assert_string_equal(hex, rows[i].hex);
  }
}

static void json_is_read_or_refused(void **state) {
  (void)state;
  struct json_reader r;
  struct error err = {0};
  const char text[] = " {\"a\": [1, \"x\\u0041\\n\\\"\", {}], \"b\" : null } ";
  static const enum json_event want[] = {JSON_OBJECT, JSON_ARRAY, JSON_OTHER, JSON_TEXT,  JSON_OBJECT,
                                         JSON_CLOSE,  JSON_CLOSE, JSON_OTHER, JSON_CLOSE, JSON_DONE};
  json_read_start(&r, text, strlen(text));
  for (size_t i = 0; i < sizeof want / sizeof *want; i++) {
    assert_int_equal(json_read(&r, &err), want[i]);
    if (i == 1) assert_string_equal(r.key.data, "a");
    if (want[i] == JSON_TEXT) assert_string_equal(r.text.data, "xA\n\"");
    if (i == 7) assert_string_equal(r.key.data, "b");
  }
  json_read_free(&r);
  static const char *const bad[] = {"",
                                    "{",
                                    "[1,]x",
                                    "{\"a\" 1}",
                                    "{\"a\":1,}",
                                    "[1 2]",
                                    "\"a",
                                    "\"\\q\"",
                                    "[1]]",
                                    "{1:2}",
                                    "\"\n\"",
                                    "\"\\u00g0\"",
                                    "[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[["};
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
    enum json_event event;
    err = (struct error){0};
    json_read_start(&r, bad[i], strlen(bad[i]));
    while ((event = json_read(&r, &err)) != JSON_ERROR && event != JSON_DONE) {}
    if (event != JSON_ERROR || !strstr(err.text, "not JSON: ") || json_read_line(&r) < 1)
      fail_msg("%s: %s", bad[i], err.text);
    json_read_free(&r);
  }
}

// ---- bad sets ----

static void bad_lines_are_one_sentence(void **state) {
  (void)state;
  static const struct {
    const char *text, *word, *other;
  } rows[] = {
      {"d64:f32\nd64:f33 target=c99\n", "bad.txt:2: ", "f32"},
      {"d64 target=avx513", "bad.txt:1: ", "avx512"},
      {"d64 target=c99,", "bad.txt:1: ", "target"},
      {"d64 trget=c99", "trget=c99", "nearest is target"},
      {"d64 target", "no value", "target=avx512"},
      {"d64 --target", "no value", "target=avx512"},
      {"d64 set=", "no value", "set=stages=1"},
      {"d64 target=c99 printer=intrin", "scalar", "c99"},
      {"d64 target=avx2 printer=intrinsics", "intrinsics", "intrin"},
      {"d64 target=c99 set=block_n=100", "block_n 100", "96"},
      {"d64 set=stages=1 --set=stages=2", "twice", "set"},
      {"d64:bf16 target=sm90a\nd64:f32 target=sm90a", "bad.txt:2: ", "f32"},
      {"d64 target=c99\n\nd64:f32 target=avx512,c99", "bad.txt:3: ", "line 1 has a kernel"},
      {"d64:causal target=c99\nd64:causal_top_left target=c99", "bad.txt:2: ", "args->diagonal"},
      {"d64 target=c99\nd64 target=avx512 printer=scalar", "bad.txt:2: ", "for every CPU"},
      {"# nothing\n\n", "bad.txt: ", "no kernel"},
      {"", "bad.txt: ", "no kernel"},
      {"d64 a b c d e f g h i j k l m n o p", "words", "bad.txt:1: "},
      {"d64\001", "control character 1", "bad.txt:1: "},
      {"{\"name\": \"a\", \"files\": [{\"file\": \"x.c\", \"spec\": \"d0\"}]}", "bad.txt:1: ", "head_dim"},
      {"{\"name\": \"a b\", \"files\": []}", "name \"a b\"", "letters"},
      {"{\"files\": []}", "bad.txt: ", "no kernel"},
      {"{\"files\": [", "bad.txt:1: ", "JSON"},
      {"{\n\"files\": [\n{\"spec\": \"d8\"},\n{\n\"spec\": \"d0\"}]}", "bad.txt:4: ", "head_dim"},
      {"{\"files\": [{\"spec\": \"d8\",\n\"printer\": 7}]}", "bad.txt:2: ", "\"printer\": must be a string"},
      {"{\"files\": [{\"spec\": \"d8\",\n\"config\": null}]}", "bad.txt:2: ", "\"config\": must be a string"},
      {"{\"files\": [{\"spec\": \"d8\",\n\"target\": [\"c99\"]}]}", "bad.txt:2: ", "\"target\": must be a string"},
      {"{\n\"prefix\": {}, \"files\": []}", "bad.txt:2: ", "\"prefix\": must be a string"},
      {"{\n\"prefix\": \"a-b\", \"files\": []}", "bad.txt:2: ", "prefix \"a-b\""},
  };
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
    write_text("bad.txt", rows[i].text);
    refuses("emit --set-file bad.txt -o none", rows[i].word, rows[i].other);
    refuses("emit --set-file bad.txt --list", rows[i].word, rows[i].other);
  }
}

static void one_bad_line_among_a_hundred(void **state) {
  (void)state;
  struct buf text = {0};
  for (int d = 1; d <= 100; d++) buf_printf(&text, d == 77 ? "d%d:f23 target=c99\n" : "d%d:f32 target=c99\n", d);
  assert_false(text.failed);
  write_text("bad.txt", text.data);
  refuses("emit --set-file bad.txt -o none", "bad.txt:77: ", "f32");
  buf_free(&text);
}

static void bad_options_are_one_sentence(void **state) {
  (void)state;
  static const char *const rows[][3] = {
      {"emit --set-file nowhere.txt -o none", "nowhere.txt", "No such file"},
      {"emit --set-file . -o none", "regular file", "."},
      {"emit d64 --set-file set.txt -o none", "SPEC", "only one"},
      {"emit --set-file set.txt", "--output", "missing"},
      {"emit --set-file set.txt -o none --printer code", "--printer", "set file"},
      {"emit --set-file set.txt -o none --prefix 9a", "--prefix \"9a\"", "foo_"},
      {"emit --set-file set.txt -o none --prefix a-b", "--prefix", "letters"},
      {"emit --set-file set.txt -o none --name a.b", "--name", "letters"},
      {"emit --set-file set.txt --check none -o none", "--check", "--output"},
      {"emit --set-file set.txt --list --depfile x", "--list", "--depfile"},
      {"emit --set-file set.txt --check none", "none", "No such file"},
      {"emit --check none", "none/manifest.json", "--set-file"},
      {"emit --set-file set.txt -o none --depfile nowhere/x.d", "nowhere/x.d", "No such file"},
  };
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) refuses(rows[i][0], rows[i][1], rows[i][2]);
}

static void files_of_others_are_left_alone(void **state) {
  (void)state;
  assert_int_equal(mkdir(path_of("mine"), 0777), 0);
  write_text("mine/CMakeLists.txt", "project(mine)\n");
  refuses("emit --set-file set.txt -o mine", "mine/CMakeLists.txt", "not written by strobe");
  char *text = read_text("mine/CMakeLists.txt");
  assert_string_equal(text, "project(mine)\n");
  free(text);
  assert_int_equal(shell("test \"$(ls %s/mine)\" = CMakeLists.txt", dir), 0);
}

// ---- what is written ----

static void the_list_is_what_is_written(void **state) {
  (void)state;
  works("emit --set-file set.txt --prefix p_ --name at --list");
  const char *first = got.out;
  assert_true(!strncmp(first, "manifest.json\n", 14));
  write_text("list", got.out);
  works("emit --set-file set.txt --prefix p_ --name at -o listed");
  assert_int_equal(shell("cd %s && ls listed | LC_ALL=C sort > written && LC_ALL=C sort list | cmp - written", dir), 0);
  works("emit --set-file set.txt --prefix p_ --name at -o listed --list");
  assert_non_null(strstr(got.out, "listed/at_dispatch.h\n"));
  works("emit --set-file set.txt --list --json");
  assert_true(got.out[0] == '[');
  assert_int_equal(shell("cd %s && ls -A listed | grep -q '^\\.'", dir), 1); // no temporary file
}

// Another directory, umask, locale, order of lines: the same bytes.
static void the_same_everywhere(void **state) {
  (void)state;
  static const char turned[] = "d8v16:f32 target=c99 set=block_n=32\nd16:f32:causal target=c99,avx512\n";
  write_text("turned.txt", turned);
  works("emit --set-file set.txt -o first");
  assert_int_equal(
      shell("mkdir -p '%s/a b' && cd '%s/a b' && umask 077 && LC_ALL=de_DE.UTF-8 TZ=Asia/Tokyo HOME=/nowhere "
            "STROBE_DB=/nowhere %s emit --set-file ../turned.txt -o \"$PWD/second\" > /dev/null",
            dir, dir, binary),
      0);
  assert_int_equal(shell("diff -r %s/first '%s/a b/second'", dir, dir), 0);
  assert_int_equal(shell("grep -rlE '%s|turned|set\\.txt' %s/first", dir, dir), 1); // no path, no name of the set file
  works("emit --set-file set.txt -o first");
  assert_non_null(strstr(got.out, "current first: 3 kernels, 10 files, 0 of them changed"));
}

static void the_manifest_tells_the_truth(void **state) {
  (void)state;
  struct json_reader r;
  char *text, name[256] = "", hash[80] = "", command[1024] = "";
  int files = 0, kernels = 0;
  works("emit --set-file set.txt --prefix p_ -o truth");
  text = read_text("truth/manifest.json");
  json_read_start(&r, text, strlen(text));
  for (enum json_event e; (e = json_read(&r, NULL)) != JSON_DONE;) {
    assert_int_not_equal(e, JSON_ERROR);
    if (e == JSON_TEXT && !strcmp(r.key.data, "strobe")) assert_string_equal(r.text.data, STROBE_VERSION);
    if (e == JSON_TEXT && !strcmp(r.key.data, "prefix")) assert_string_equal(r.text.data, "p_");
    if (e == JSON_TEXT && !strcmp(r.key.data, "file")) snprintf(name, sizeof name, "%s", r.text.data);
    if (e == JSON_TEXT && !strcmp(r.key.data, "hash")) snprintf(hash, sizeof hash, "%s", r.text.data);
    if (e == JSON_TEXT && !strcmp(r.key.data, "command") && r.depth == 3)
      snprintf(command, sizeof command, "%s", r.text.data);
    if (e != JSON_CLOSE || r.depth != 2) continue;
    assert_int_equal(strncmp(hash, "sha256:", 7), 0);
    assert_int_equal(shell("cd %s/truth && echo '%s  %s' | sha256sum --check --quiet", dir, hash + 7, name), 0);
    if (*command) { // writes the same two files, byte for byte
      assert_int_equal(shell("mkdir -p %s/one && cd %s/one && %s %s > /dev/null && cmp %s ../truth/%s", dir, dir,
                             binary, command + strlen("strobe "), name, name),
                       0);
      kernels++;
    }
    files++;
    *command = 0;
  }
  assert_int_equal(files, 9);
  assert_int_equal(kernels, 6); // sources and headers
  json_read_free(&r);
  free(text);
  assert_int_equal(
      shell("cd %s && cp -r truth whole && rm whole/*.[ch]* && cd whole && %s emit --set-file manifest.json -o "
            ". > /dev/null && diff -r . ../truth",
            dir, binary),
      0);
}

static void checks(const char *arguments, int code, const char *word, const char *other) {
  const struct outcome *o = strobe(arguments);
  if (o->code != code || !strstr(o->out, word) || !strstr(o->out, other))
    fail_msg("strobe %s: exit %d: %s%s", arguments, o->code, o->out, o->err);
}

static void check_finds_what_is_stale(void **state) {
  (void)state;
  works("emit --set-file set.txt -o checked");
  checks("emit --check checked", 0, "10 files are what strobe", STROBE_VERSION);
  checks("emit --check checked --set-file set.txt", 0, "10 files", "");
  checks("emit --check checked --json", 0, "\"ok\": true", "\"current\": 10");
  assert_int_equal(shell("cd %s/checked && echo '// mine' >> attn_dispatch.c && cp attn_dispatch.h old.h && "
                         "rm attn_fwd_d8v16*.c && echo mine > notes.c",
                         dir),
                   0);
  checks("emit --check checked", 1, "changed attn_dispatch.c\n", "extra old.h\n");
  assert_non_null(strstr(got.out, "missing attn_fwd_d8v16_f32_"));
  assert_non_null(strstr(got.out, "1 changed, 1 missing, 1 extra; 8 are what"));
  assert_null(strstr(got.out, "notes.c"));
  checks("emit --check checked --json", 1, "\"ok\": false", "\"missing\": 1");
  works("emit --set-file set.txt -o checked");
  checks("emit --check checked", 1, "extra old.h\n", "0 changed, 0 missing, 1 extra");
  unlink(path_of("checked/old.h"));
  checks("emit --check checked", 0, "10 files", "");
  // Whose a file is, its first 400 bytes say.
  assert_int_equal(shell("cd %s/checked && printf '//%%*swritten by strobe 1\n' 380 '' > within.h && "
                         "printf '//%%*swritten by strobe 1\n' 381 '' > beyond.h",
                         dir),
                   0);
  checks("emit --check checked", 1, "extra within.h\n", "0 changed, 0 missing, 1 extra");
  unlink(path_of("checked/within.h"));
  write_text("other.txt", "d16:f32:causal target=c99\n");
  checks("emit --check checked --set-file other.txt", 1, "changed manifest.json", "extra attn_fwd_d8v16");
  checks("emit d16:f32:causal --target c99 --check checked", 1, "extra attn_dispatch.c", "0 changed, 0 missing");
}

static void the_depfile_is_no_file_of_the_set(void **state) {
  (void)state;
  assert_int_equal(shell("mkdir '%s/nd' && ln '%s/set.txt' '%s/nd/link.txt'", dir, dir, dir), 0);
  refuses("emit --set-file set.txt -o nd/set --depfile set.txt", "--depfile \"set.txt\"", "another file");
  refuses("emit --set-file set.txt -o nd/set --depfile nd/link.txt", "--depfile \"nd/link.txt\"", "made of");
  refuses("emit --set-file set.txt -o nd/set --depfile nd/../nd/set/manifest.json", "manifest.json", "emitted files");
  refuses("emit --set-file set.txt -o nd/set --depfile nd/set/attn_dispatch.c", "attn_dispatch.c", "emitted files");
  assert_int_equal(shell("test \"$(ls %s/nd)\" = link.txt", dir), 0);
  char *text = read_text("set.txt");
  assert_string_equal(text, set_text);
  free(text);
}

static void the_depfile_is_a_rule_of_make(void **state) {
  (void)state;
  assert_int_equal(shell("mkdir -p '%s/tpl/set' && cp templates/set/dispatch.h '%s/tpl/set/'", dir, dir), 0);
  write_text("s#t.txt", set_text);
  works("emit --set-file s#t.txt -o dep --template-dir tpl --depfile rule.d");
  char *text = read_text("rule.d");
  assert_true(!strncmp(text, "dep/manifest.json \\\n dep/attn_fwd_", 33));
  assert_non_null(
      strstr(text, "dep/CMakeLists.txt: \\\n s\\#t.txt \\\n tpl/set/dispatch.h\ns\\#t.txt:\ntpl/set/dispatch.h:\n"));
  free(text);
  assert_int_equal(shell("cp %s/set.txt '%s/a:b.txt'", dir, dir), 0);
  works("emit --set-file a:b.txt -o o:p --depfile colon.d");
  text = read_text("colon.d");
  assert_true(!strncmp(text, "o\\:p/manifest.json \\\n", 21));
  assert_non_null(strstr(text, ": \\\n a\\:b.txt\na\\:b.txt:\n"));
  free(text);
  write_text("Makefile", "all: o\\:p/attn_dispatch.c\no\\:p/attn_dispatch.c:\n\techo new\ninclude colon.d\n");
  assert_int_equal(shell("cd %s && make -q", dir), 0);
  assert_int_equal(shell("cd %s && touch -d '1 hour' a:b.txt && make -q", dir), 1);
  write_text("Makefile", "all: dep/attn_dispatch.c\ndep/attn_dispatch.c:\n\techo new\ninclude rule.d\n");
  assert_int_equal(shell("cd %s && make -q", dir), 0);
  assert_int_equal(shell("cd %s && touch -d '1 hour' tpl/set/dispatch.h && make -q", dir), 1);
}

// ---- trouble ----

// A template that is there and can't be read is not replaced by the built-in one.
static void templates_that_cannot_be_read(void **state) {
  (void)state;
  assert_int_equal(shell("mkdir -p '%s/bent/cpu/attn_fwd.c' '%s/bent/set'", dir, dir), 0);
  assert_int_equal(shell("ln -s dispatch.h '%s/bent/set/dispatch.h'", dir), 0);
  refuses("emit d16:f32 --target c99 --template-dir bent -o none", "bent/cpu/attn_fwd.c", "regular file");
  refuses("emit d16:f32 --target avx512 --template-dir bent -o none", "bent/cpu/attn_fwd.c", "regular file");
  works("emit d16:f32:q1 --target c99 --template-dir bent -o decode");
  refuses("emit d16:f32:q1 --target c99 --template-dir bent --name attn -o none", "bent/set/dispatch.h", "symbolic");
}

static void a_full_disk_leaves_the_earlier_files(void **state) {
  (void)state;
  works("emit --set-file set.txt -o full");
  assert_int_equal(shell("cp -r %s/full %s/kept", dir, dir), 0);
  write_text("more.txt", "d16:f32:causal target=c99\nd24:f32 target=avx512,c99\n");
  struct rlimit before, low;
  assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
  low = before;
  low.rlim_cur = 30000; // the dispatcher fits, the kernels do not
  assert_int_equal(setrlimit(RLIMIT_FSIZE, &low), 0);
  const struct outcome *o = strobe("emit --set-file more.txt -o full");
  assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
  assert_int_equal(o->code, 2);
  assert_non_null(strstr(o->err, "cannot write \"full/"));
  assert_int_equal(shell("diff -r %s/full %s/kept", dir, dir), 0); // also no temporary file
}

// Eight at once, two sets: afterwards the directory is what its manifest says.
static void emits_into_one_directory_at_once(void **state) {
  (void)state;
  write_text("more.txt", "d16:f32:causal target=c99\nd24:f32 target=c99\n");
  for (int round = 0; round < 3; round++)
    assert_int_equal(
        shell("cd %s && for i in 1 2 3 4; do for s in set more; do %s emit --set-file $s.txt -o busy > /dev/null & "
              "done; done; wait; ls -A busy | grep -q '^\\.' && exit 1; %s emit --check busy > report; "
              "grep -q '^0 changed, 0 missing\\|files are what' report",
              dir, binary, binary),
        0);
}

int main(int argc, char **argv) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(hashes_are_those_of_the_standard), cmocka_unit_test(json_is_read_or_refused),
      cmocka_unit_test(bad_lines_are_one_sentence),       cmocka_unit_test(one_bad_line_among_a_hundred),
      cmocka_unit_test(bad_options_are_one_sentence),     cmocka_unit_test(files_of_others_are_left_alone),
      cmocka_unit_test(the_list_is_what_is_written),      cmocka_unit_test(the_same_everywhere),
      cmocka_unit_test(the_manifest_tells_the_truth),     cmocka_unit_test(check_finds_what_is_stale),
      cmocka_unit_test(the_depfile_is_a_rule_of_make),    cmocka_unit_test(a_full_disk_leaves_the_earlier_files),
      cmocka_unit_test(emits_into_one_directory_at_once), cmocka_unit_test(the_depfile_is_no_file_of_the_set),
      cmocka_unit_test(templates_that_cannot_be_read),
  };
  (void)argc;
  if (!find_binary(argv[0])) return 1;
  return cmocka_run_group_tests(tests, start, remove_directory);
}
