// SHA-256 (FIPS 180-4), so that `sha256sum` can check what a manifest says.
#ifndef STROBE_GEN_SHA256_H
#define STROBE_GEN_SHA256_H

#include <stddef.h>

// Writes 64 hexadecimal digits and a NUL.
void sha256_hex(const void *data, size_t len, char hex[65]);

#endif
