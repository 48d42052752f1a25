// The files of a set: rendered, written together, compared with what is there.
#ifndef STROBE_GEN_SET_FILES_H
#define STROBE_GEN_SET_FILES_H

#include "set_manifest.h"

struct set_files {
  struct output *output; // the manifest first, if there is one: it is written last
  int n;
};

// Names only (for --list), or names and texts. Errors name the line of the set file.
int set_files_render(const struct kernel_set *set, bool names_only, struct set_files *out, struct error *err);
void set_files_free(struct set_files *f);

// Writes all files to dir, and `depfile` (may be NULL: none), whole or not at all; *changed gets how many were written.
// Another process that writes there is waited for. Refuses to replace a CMakeLists.txt and the like that strobe has not
// written.
int set_files_write(const struct set_files *f, const char *dir, const char *depfile, const struct buf *rule,
                    int *changed, struct error *err);

// A rule for make: all files of f in dir depend on the names in inputs.
void set_files_rule(const struct set_files *f, const char *dir, const char *const *inputs, int n, struct buf *out);

enum file_state { FILE_CURRENT, FILE_CHANGED, FILE_MISSING, FILE_EXTRA, FILE_STATES };
extern const char *const file_state_names[FILE_STATES];

// Compares dir with f: calls report for every file that is not current, and for files that strobe has written and that
// are not in f (extra), in the order of f, then by name. counts gets how many of each there are. STROBE_IO.
typedef void file_report(void *context, enum file_state state, const char *name);
int set_files_check(const struct set_files *f, const char *dir, file_report *report, void *context,
                    int counts[FILE_STATES], struct error *err);

void path_join(const char *dir, const char *name, struct buf *out);

#endif
