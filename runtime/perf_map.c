#include "perf_map.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

bool perf_map_wanted(void) {
  const char *value = secure_getenv("STROBE_PERF");
  return value && strcmp(value, "1") == 0;
}

void perf_map_begin(struct perf_map *map) { *map = (struct perf_map){{0}}; }

void perf_map_add(struct perf_map *map, uint64_t address, uint64_t size, const char *object, const char *function) {
  buf_printf(&map->lines, "%" PRIx64 " %" PRIx64 " %s%s%s\n", address, size, object ? object : "", object ? ":" : "",
             function);
}

void perf_map_end(struct perf_map *map) {
  char path[64];
  snprintf(path, sizeof path, "/tmp/perf-%ld.map", (long)getpid());
  // The directory is shared with other users: never through a link that one of them left there.
  int fd = map->lines.failed || map->lines.len == 0
               ? -1
               : open(path, O_WRONLY | O_APPEND | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
  struct stat st;
  struct rlimit limit;
  // Beyond RLIMIT_FSIZE the host would get a SIGXFSZ.
  if (fd >= 0 && !fstat(fd, &st) && !getrlimit(RLIMIT_FSIZE, &limit) &&
      (limit.rlim_cur == RLIM_INFINITY || (rlim_t)st.st_size + map->lines.len <= limit.rlim_cur)) {
    ssize_t written = write(fd, map->lines.data, map->lines.len);
    (void)written;
  }
  if (fd >= 0) close(fd);
  buf_free(&map->lines);
}
