/* A port of one stage, to start from: the first LayerNorm of the encoder.

   cc -O2 -o port port.c -lm
   ./port FIXTURE OUT          writes OUT/encoder/block_00/norm1.npy
   ./port 1e-4 FIXTURE OUT     with another epsilon, to see a comparison fail */
#include <math.h>

#include "fixture.h"

static void layer_norm(const Array *x, const Array *scale, const Array *bias, double eps, float *y) {
    size_t width = scale->count;
    if (!x->rank || x->shape[x->rank - 1] != width || bias->count != width)
        fail("the input of the norm", "is not as wide as its scale and bias");
    for (size_t row = 0; row < x->count; row += width) {
        double mean = 0, variance = 0;
        for (size_t i = 0; i < width; i++) mean += at(x, row + i) / width;
        for (size_t i = 0; i < width; i++) variance += pow(at(x, row + i) - mean, 2) / width;
        for (size_t i = 0; i < width; i++)
            y[row + i] = at(scale, i) * (at(x, row + i) - mean) / sqrt(variance + eps) + at(bias, i);
    }
}

int main(int argc, char **argv) {
    if (argc < 3) fail(argv[0], "name the folder of a fixture, and one to write into");
    const char *fixture = argv[argc - 2], *out = argv[argc - 1];
    char *rest = "";
    double eps = argc > 3 ? strtod(argv[1], &rest) : 1e-6;
    if (*rest || !(eps >= 0)) fail(argv[1], "is no epsilon");

    char path[4096];
    snprintf(path, sizeof path, "%s/image.npy", fixture);
    Array image = read_npy(path), mask = read_stage(fixture, "mask");
    if (image.rank != 3) fail(path, "is no image");
    size_t valid = 0;
    for (size_t i = 0; i < mask.count; i++) valid += at(&mask, i) != 0;
    printf("image %zu x %zu, %zu of %zu tokens are valid\n", image.shape[0], image.shape[1], valid, mask.count);

    Array x = read_stage(fixture, "encoder/input");
    Array scale = read_weight(fixture, "encoder/block_00/norm1/scale");
    Array bias = read_weight(fixture, "encoder/block_00/norm1/bias");
    float *y = malloc(x.count * sizeof *y);
    layer_norm(&x, &scale, &bias, eps, y);
    write_stage(out, "encoder/block_00/norm1", &x, y);

    free(y);
    Array read[] = {image, mask, x, scale, bias};
    for (size_t k = 0; k < sizeof read / sizeof *read; k++) free(read[k].values);
    return 0;
}
