// Turns files into a C table: `embed templates/cpu/a.inc ...` prints embedded_files[]. A build tool, not part of the
// library. Names are relative to templates/ (others keep their last component), so that $include "cpu/qk.inc" finds
// them.
#include <stdio.h>
#include <string.h>

int main(int argc, char **argv) {
  printf("#include \"embedded.h\"\n\n");
  for (int i = 1; i < argc; i++) {
    FILE *f = fopen(argv[i], "rb");
    if (!f) return perror(argv[i]), 1;
    printf("static const char file_%d[] = {", i);
    int n = 0;
    for (int c; (c = getc(f)) != EOF; n++) printf("%s%d,", n % 24 ? "" : "\n", c);
    printf("0};\n");
    fclose(f);
  }
  printf("const struct embedded_file embedded_files[] = {\n");
  for (int i = 1; i < argc; i++) {
    const char *name = strncmp(argv[i], "templates/", 10) == 0 ? argv[i] + 10 : strrchr(argv[i], '/') + 1;
    printf("    {\"%s\", file_%d, sizeof file_%d - 1},\n", name, i, i);
  }
  printf("};\nconst int embedded_count = %d;\n", argc - 1);
  return 0;
}
