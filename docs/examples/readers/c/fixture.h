/* The fixture format (docs/fixture-format.md) for C99 with POSIX, on little-endian machines, without dependencies.
   JSON is not parsed: keys are looked for, which is enough for what our files hold. */
#ifndef FIXTURE_H
#define FIXTURE_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

typedef struct {
    char type[4]; /* "<f4", "<f8", "<i8" or "|u1" */
    int rank;
    size_t shape[8], count; /* last axis fastest */
    unsigned char *values;
} Array;

static inline void fail(const char *path, const char *why) {
    fprintf(stderr, "%s: %s\n", path, why);
    exit(2);
}

static inline double at(const Array *a, size_t i) {
    if (!strcmp(a->type, "<f4")) return ((float *)a->values)[i];
    if (!strcmp(a->type, "<f8")) return ((double *)a->values)[i];
    if (!strcmp(a->type, "<i8")) return (double)((int64_t *)a->values)[i];
    return a->values[i];
}

static inline char *read_file(const char *path, size_t *length) {
    struct stat about;
    if (stat(path, &about)) fail(path, "is missing, or cannot be read");
    if (!S_ISREG(about.st_mode)) fail(path, "is a folder, or no plain file");
    *length = (size_t)about.st_size;
    FILE *file = fopen(path, "rb");
    char *bytes = file ? malloc(*length + 1) : NULL;
    if (!bytes || fread(bytes, 1, *length, file) != *length) fail(path, "cannot be read");
    fclose(file);
    bytes[*length] = 0;
    return bytes;
}

static inline void take(Array *a, const char *bytes, size_t size, const char *path) {
    size_t width = a->type[2] - '0';
    if (size != a->count * width) fail(path, "is cut short, or longer than its shape says");
    a->values = malloc(size + 1); /* a copy, which is aligned */
    if (!a->values) fail(path, "is too large");
    memcpy(a->values, bytes, size);
}

static inline void read_shape(Array *a, const char *text, char end, const char *path) {
    a->rank = 0, a->count = 1;
    for (char *next; *text != end; text = next + (*next == ',')) {
        while (*text == ' ') text++;
        if (*text == end) break;
        if (a->rank == 8) fail(path, "has too many axes");
        size_t n = strtoull(text, &next, 10);
        if (*text < '0' || *text > '9' || (*next != ',' && *next != end)) fail(path, "has a shape that cannot be read");
        if (n && a->count > SIZE_MAX / 8 / n) fail(path, "has a shape that is too large");
        a->count *= a->shape[a->rank++] = n;
    }
}

static inline Array read_npy(const char *path) {
    size_t length;
    char *bytes = read_file(path, &length);
    if (length < 10 || memcmp(bytes, "\x93NUMPY\x01", 7)) fail(path, "is no .npy file of version 1");
    size_t start = 10 + (unsigned char)bytes[8] + 256 * (size_t)(unsigned char)bytes[9];
    if (length < start) fail(path, "is cut short");
    char kept = bytes[start];
    bytes[start] = 0; /* the header ends here */
    char *type = strstr(bytes + 10, "'descr': '"), *shape = strstr(bytes + 10, "'shape': (");
    if (!type || !shape || !strstr(bytes + 10, "'fortran_order': ")) fail(path, "has a header that cannot be read");
    if (!strstr(bytes + 10, "'fortran_order': False")) fail(path, "is in Fortran order; write it in C order");
    const char *types[] = {"<f4'", "<f8'", "<i8'", "|u1'"};
    Array a = {0};
    for (int k = 0; k < 4; k++)
        if (!strncmp(type + 10, types[k], 4)) memcpy(a.type, types[k], 3);
    if (!a.type[0]) fail(path, "has numbers of a type other than <f4, <f8, <i8 and |u1");
    read_shape(&a, shape + 10, ')', path);
    bytes[start] = kept;
    take(&a, bytes + start, length - start, path);
    free(bytes);
    return a;
}

/* A stage by its name. A large one, of which the file holds a sample, is refused: it is there to be compared with, not
   to compute from. */
static inline Array read_stage(const char *folder, const char *name) {
    char path[4096], key[1024];
    size_t length;
    snprintf(path, sizeof path, "%s/manifest.json", folder);
    char *manifest = read_file(path, &length);
    if (!strstr(manifest, "\"format\": \"musiq_ref fixture\"") || !strstr(manifest, "\"version\": 1,"))
        fail(path, "is of no fixture of version 1");
    snprintf(key, sizeof key, "\"name\": \"%s\"", name);
    char *stage = strstr(manifest, key), *sample = stage ? strstr(stage, "\"sample\": ") : NULL;
    snprintf(path, sizeof path, "%s/stages/%s.npy", folder, name);
    if (!sample) fail(path, "is no stage of the manifest");
    if (strncmp(sample + 10, "null", 4))
        fail(path, "holds a sample of the stage only; start from an earlier one, or from image.npy");
    free(manifest);
    return read_npy(path);
}

static inline Array read_weight(const char *folder, const char *name) {
    char path[4096], key[1024];
    size_t length;
    snprintf(path, sizeof path, "%s/weights.safetensors", folder);
    snprintf(key, sizeof key, "\"%s\":{", name);
    char *bytes = read_file(path, &length);
    uint64_t header;
    if (length < 8 || (memcpy(&header, bytes, 8), header > length - 8)) fail(path, "is cut short");
    char *values = bytes + 8 + header, kept = *values;
    *values = 0; /* the header ends here */
    char *entry = strstr(bytes + 8, key);
    char *end = entry ? strchr(entry, '}') : NULL, *type, *shape, *offsets;
    if (end) *end = 0;
    type = end ? strstr(entry, "\"dtype\":\"F32\"") : NULL;
    snprintf(key, sizeof key, "has no float32 parameter %s; those it has are named in manifest.json, as dparams/...", name);
    if (!type) fail(path, key);
    shape = strstr(entry, "\"shape\":["), offsets = strstr(entry, "\"data_offsets\":[");
    if (!shape || !offsets) fail(path, "has a header that cannot be read");
    Array a = {.type = "<f4"};
    read_shape(&a, shape + 9, ']', path);
    unsigned long long from = 0, to = 0;
    if (sscanf(offsets + 16, "%llu,%llu", &from, &to) != 2 || from > to || to > length - 8 - header) fail(path, "is cut short");
    *values = kept;
    take(&a, values + from, to - from, path);
    free(bytes);
    return a;
}

/* Writes float32 values as OUT/NAME.npy, which `musiq-ref compare` reads. */
static inline void write_stage(const char *out, const char *name, const Array *like, const float *values) {
    char path[4096], header[118], axes[200] = "";
    snprintf(path, sizeof path, "%s/%s.npy", out, name);
    for (char *slash = strchr(path + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
        *slash = 0;
        mkdir(path, 0777);
        *slash = '/';
    }
    for (int k = 0; k < like->rank; k++) snprintf(axes + strlen(axes), sizeof axes - strlen(axes), "%zu, ", like->shape[k]);
    int n = snprintf(header, sizeof header, "{'descr': '<f4', 'fortran_order': False, 'shape': (%s), }", axes);
    if (n > 117) fail(path, "has a shape that is too long");
    memset(header + n, ' ', 118 - n); /* 10 bytes and these are 128 */
    header[117] = '\n';
    FILE *file = fopen(path, "wb");
    if (!file || fwrite("\x93NUMPY\x01\x00\x76\x00", 1, 10, file) != 10 || fwrite(header, 1, 118, file) != 118 ||
        fwrite(values, sizeof(float), like->count, file) != like->count || fclose(file))
        fail(path, "cannot be written");
}

#endif
