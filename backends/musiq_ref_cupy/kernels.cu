// The kernels of the CuPy backend. One text for NVRTC, which compiles it for a GPU, and for g++ (tests/cuda_on_cpu.h).
//
// The readable ops in musiq_ref/ops say what is computed; a kernel has its op's name, and kernels.py calls it. Products
// are not here: cuBLAS makes those. T is float or double; arrays are C-contiguous; a null pointer means "there is none".
//
// A grid is made of blocks, a block of threads, which share some fast memory and can wait for each other
// (__syncthreads). 32 neighbouring threads are a warp and go in step: they can hand values to each other (shuffles).
// Two shapes recur. "A warp a row": blocks of (32, W) threads, threadIdx.x is the lane, threadIdx.y tells which of the
// block's W rows. "A block an element": blockIdx.x is a row, a pixel or an image, and the threads share its channels.

typedef long long Index; // of an element in an array, which may have more than 2^31
extern __shared__ double shared[];

template <class T> __device__ T lowest() { return log((T)0); } // −∞

template <class T> __device__ T finite(T x) { return x == lowest<T>() ? 0 : x; } // a row that is −∞ everywhere gives zeros

template <class T> __device__ T warp_sum(T x) {
    for (int mask = 16; mask; mask /= 2) x += __shfl_xor_sync(~0u, x, mask);
    return x;
}

template <class T> __device__ T warp_max(T x) {
    for (int mask = 16; mask; mask /= 2) x = max(x, __shfl_xor_sync(~0u, x, mask));
    return x;
}

// ------------------------------------------------------------------------------------------- LayerNorm: a warp a row

template <class T> __device__ void normalise(const T *x, const T *gamma, const T *beta, T *y, T *mean, T *rho, int D, T eps) {
    T sum = 0, squares = 0;
    for (int d = threadIdx.x; d < D; d += 32) sum += x[d];
    T mu = warp_sum(sum) / D;
    for (int d = threadIdx.x; d < D; d += 32) squares += (x[d] - mu) * (x[d] - mu);
    T r = 1 / sqrt(warp_sum(squares) / D + eps);
    for (int d = threadIdx.x; d < D; d += 32) y[d] = gamma[d] * ((x[d] - mu) * r) + beta[d];
    if (threadIdx.x == 0) { *mean = mu; *rho = r; }
}

// x, y: (rows, D)
template <class T> __global__ void layer_norm(const T *x, const T *gamma, const T *beta, T *y, T *mean, T *rho, int rows, int D, T eps) {
    int row = blockIdx.x * blockDim.y + threadIdx.y;
    if (row < rows) normalise(x + (Index)row * D, gamma, beta, y + (Index)row * D, mean + row, rho + row, D, eps);
}

// z = residual + (x + bias); y = LN(z)
template <class T> __global__ void bias_residual_layer_norm(const T *x, const T *bias, const T *residual, const T *gamma, const T *beta,
                                                            T *z, T *y, T *mean, T *rho, int rows, int D, T eps) {
    int row = blockIdx.x * blockDim.y + threadIdx.y;
    if (row >= rows) return;
    x += (Index)row * D; residual += (Index)row * D; z += (Index)row * D; y += (Index)row * D;
    for (int d = threadIdx.x; d < D; d += 32) z[d] = residual[d] + (x[d] + bias[d]); // each lane reads what it wrote
    normalise(z, gamma, beta, y, mean + row, rho + row, D, eps);
}

// dz = dz + ρ·(dx̂ − mean(dx̂) − x̂·mean(dx̂·x̂)), dx̂ = dy·γ; the dz on the right may be null
template <class T> __global__ void layer_norm_backward(const T *dy, const T *x, const T *mean, const T *rho, const T *gamma, const T *dz,
                                                       T *dx, int rows, int D) {
    int row = blockIdx.x * blockDim.y + threadIdx.y;
    if (row >= rows) return;
    Index start = (Index)row * D;
    T mu = mean[row], r = rho[row], sum = 0, along = 0;
    for (int d = threadIdx.x; d < D; d += 32) {
        T g = dy[start + d] * gamma[d];
        sum += g;
        along += g * ((x[start + d] - mu) * r);
    }
    sum = warp_sum(sum) / D;
    along = warp_sum(along) / D;
    for (int d = threadIdx.x; d < D; d += 32) {
        T xhat = (x[start + d] - mu) * r;
        dx[start + d] = r * (dy[start + d] * gamma[d] - sum - xhat * along) + (dz ? dz[start + d] : 0);
    }
}

// Σ x over `strip` rows of (rows, D): (strips, D), whose columns are added up afterwards, always in the same order.
// Blocks of (32, W) threads: 32 neighbouring columns, W rows at a time.
template <class T> __global__ void column_sums(const T *x, T *sums, int rows, int D, int strip) {
    T *own = (T *)shared + threadIdx.y * 32 + threadIdx.x, sum = 0;
    int d = blockIdx.x * 32 + threadIdx.x, end = min(rows, (int)(blockIdx.y + 1) * strip);
    for (int row = blockIdx.y * strip + threadIdx.y; row < end && d < D; row += blockDim.y) sum += x[(Index)row * D + d];
    *own = sum;
    __syncthreads();
    if (threadIdx.y == 0 && d < D) {
        for (int w = 1; w < blockDim.y; w++) sum += own[32 * w];
        sums[(Index)blockIdx.y * D + d] = sum;
    }
}

// Σ dy·x̂ and Σ dy over `strip` rows, in the same way
template <class T> __global__ void layer_norm_sums(const T *dy, const T *x, const T *mean, const T *rho, T *dgamma, T *dbeta,
                                                   int rows, int D, int strip) {
    T *part = (T *)shared, *own = part + 2 * (threadIdx.y * 32 + threadIdx.x), dot = 0, sum = 0;
    int d = blockIdx.x * 32 + threadIdx.x, end = min(rows, (int)(blockIdx.y + 1) * strip);
    for (int row = blockIdx.y * strip + threadIdx.y; row < end && d < D; row += blockDim.y) {
        T g = dy[(Index)row * D + d];
        sum += g;
        dot += g * ((x[(Index)row * D + d] - mean[row]) * rho[row]);
    }
    own[0] = dot; own[1] = sum;
    __syncthreads();
    if (threadIdx.y == 0 && d < D) {
        for (int w = 1; w < blockDim.y; w++) { dot += own[2 * 32 * w]; sum += own[2 * 32 * w + 1]; }
        dgamma[(Index)blockIdx.y * D + d] = dot;
        dbeta[(Index)blockIdx.y * D + d] = sum;
    }
}

// --------------------------------------------------------------------------------------------- softmax: a warp a row

const int AHEAD = 8; // numbers that a lane asks for before it uses the first: memory is far away

template <class T> __device__ T masked(const T *x, const bool *allowed, int j, int fill, T value) {
    return !allowed || allowed[j] ? x[j] : fill ? value : x[j] + value;
}

// x, y: (B, H, M, N), rows = B·H·M; allowed: (B, 1, Q, N), Q = M or 1, or null; forbidden ones get `value`, in place of x or
// added. The sum so far is rescaled where a larger number may have turned up, so that x is read only twice.
template <class T> __global__ void softmax(const T *x, const bool *allowed, T *y, int rows, int N, int Q, int HM, int fill, T value) {
    int row = blockIdx.x * blockDim.y + threadIdx.y;
    if (row >= rows) return;
    x += (Index)row * N; y += (Index)row * N;
    if (allowed) allowed += (Index)(row / HM * Q + row % Q) * N;
    T peak = lowest<T>(), total = 0;
    for (int first = threadIdx.x; first < N; first += 32 * AHEAD) {
        T logits[AHEAD], higher = peak;
        for (int a = 0; a < AHEAD; a++) {
            logits[a] = first + 32 * a < N ? masked(x, allowed, first + 32 * a, fill, value) : lowest<T>();
            higher = max(higher, logits[a]);
        }
        T origin = finite(higher);
        total *= exp(peak - origin);
        for (int a = 0; a < AHEAD; a++) total += exp(logits[a] - origin);
        peak = higher;
    }
    T origin = finite(warp_max(peak));
    total = warp_sum(total * exp(peak - origin));
    T scale = 1 / (total == 0 ? 1 : total);
    for (int j = threadIdx.x; j < N; j += 32) y[j] = exp(masked(x, allowed, j, fill, value) - origin) * scale;
}

// The sum, or the largest, of what every thread of a block of (W·32) brings
template <class T> __device__ T block_all(T x, bool largest) {
    T *part = (T *)shared;
    x = largest ? warp_max(x) : warp_sum(x);
    __syncthreads(); // until nobody reads the last one's parts
    if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = x;
    __syncthreads();
    x = part[0];
    for (int w = 1; w < blockDim.x / 32; w++) x = largest ? max(x, part[w]) : x + part[w];
    return x;
}

const int HELD = 64; // numbers of a row that a thread keeps

// The same for long rows, a block a row: x is read only once, and waits in registers. N <= HELD * blockDim.x
template <class T> __global__ void long_softmax(const T *x, const bool *allowed, T *y, int N, int Q, int HM, int fill, T value) {
    int row = blockIdx.x;
    x += (Index)row * N; y += (Index)row * N;
    if (allowed) allowed += (Index)(row / HM * Q + row % Q) * N;
    T kept[HELD], peak = lowest<T>(), total = 0;
    #pragma unroll
    for (int h = 0; h < HELD; h++) {
        int j = threadIdx.x + h * blockDim.x;
        kept[h] = j < N ? masked(x, allowed, j, fill, value) : lowest<T>();
        peak = max(peak, kept[h]);
    }
    T origin = finite(block_all(peak, true));
    #pragma unroll
    for (int h = 0; h < HELD; h++) { kept[h] = exp(kept[h] - origin); total += kept[h]; }
    total = block_all(total, false);
    T scale = 1 / (total == 0 ? 1 : total);
    #pragma unroll
    for (int h = 0; h < HELD; h++) {
        int j = threadIdx.x + h * blockDim.x;
        if (j < N) y[j] = kept[h] * scale;
    }
}

// dx = y·(dy − Σ dy·y); where something was filled in, 0
template <class T> __global__ void softmax_backward(const T *dy, const T *y, const bool *allowed, T *dx, int rows, int N, int Q, int HM, int fill) {
    int row = blockIdx.x * blockDim.y + threadIdx.y;
    if (row >= rows) return;
    dy += (Index)row * N; y += (Index)row * N; dx += (Index)row * N;
    if (allowed) allowed += (Index)(row / HM * Q + row % Q) * N;
    T dot = 0;
    for (int j = threadIdx.x; j < N; j += 32) dot += dy[j] * y[j];
    dot = warp_sum(dot);
    for (int j = threadIdx.x; j < N; j += 32) dx[j] = fill && allowed && !allowed[j] ? 0 : y[j] * (dy[j] - dot);
}

// ---------------------------------------------------------------------------------------------- GELU: a block a row

template <class T> __global__ void gelu(const T *x, const T *bias, T *y, int D, int exact) {
    x += (Index)blockIdx.x * D; y += (Index)blockIdx.x * D;
    for (int d = threadIdx.x; d < D; d += blockDim.x) {
        T h = x[d] + (bias ? bias[d] : 0);
        T u = (T)0.7978845608028654 * (h + (T)0.044715 * h * h * h);
        y[d] = (T)0.5 * h * (1 + (exact ? erf(h * (T)0.7071067811865476) : tanh(u)));
    }
}

template <class T> __global__ void gelu_backward(const T *dy, const T *x, const T *bias, T *dx, int D, int exact) {
    dy += (Index)blockIdx.x * D; x += (Index)blockIdx.x * D; dx += (Index)blockIdx.x * D;
    for (int d = threadIdx.x; d < D; d += blockDim.x) {
        T h = x[d] + (bias ? bias[d] : 0), slope;
        if (exact) {
            slope = (T)0.5 * (1 + erf(h * (T)0.7071067811865476)) + h * exp((T)-0.5 * h * h) * (T)0.3989422804014327;
        } else {
            T t = tanh((T)0.7978845608028654 * (h + (T)0.044715 * h * h * h));
            slope = (T)0.5 * (1 + t) + (T)0.5 * h * (1 - t * t) * (T)0.7978845608028654 * (1 + 3 * (T)0.044715 * h * h);
        }
        dx[d] = dy[d] * slope;
    }
}

// ------------------------------------------------------ GroupNorm (and ReLU): a block an image, (C, W) threads of it

// The mean over a group, `size` neighbouring channels at all positions, of which each thread brings a sum
template <class T> __device__ T group_mean(T sum, int size, int positions) {
    T *part = (T *)shared;
    __syncthreads(); // until nobody reads what was there before
    part[threadIdx.y * blockDim.x + threadIdx.x] = sum;
    __syncthreads();
    int first = threadIdx.x / size * size;
    sum = 0;
    for (int w = 0; w < blockDim.y; w++) for (int c = first; c < first + size; c++) sum += part[w * blockDim.x + c];
    return sum / ((T)size * positions);
}

// x, y: (N, positions, C); mean, rho: (N, C/size)
template <class T> __global__ void __launch_bounds__(1024) group_norm(const T *x, const T *gamma, const T *beta, T *y, T *mean, T *rho, int positions, int size,
                                              int rectified, T eps) {
    int C = blockDim.x, c = threadIdx.x;
    x += (Index)blockIdx.x * positions * C + c; y += (Index)blockIdx.x * positions * C + c;
    T sum = 0, squares = 0;
    for (int p = threadIdx.y; p < positions; p += blockDim.y) sum += x[p * C];
    T mu = group_mean(sum, size, positions);
    for (int p = threadIdx.y; p < positions; p += blockDim.y) squares += (x[p * C] - mu) * (x[p * C] - mu);
    T r = 1 / sqrt(group_mean(squares, size, positions) + eps);
    for (int p = threadIdx.y; p < positions; p += blockDim.y) {
        T value = gamma[c] * ((x[p * C] - mu) * r) + beta[c];
        y[p * C] = rectified && value <= 0 ? 0 : value;
    }
    if (threadIdx.y == 0 && c % size == 0) {
        mean[(blockIdx.x * C + c) / size] = mu;
        rho[(blockIdx.x * C + c) / size] = r;
    }
}

// y: the rectified result, or null; dgamma, dbeta: (N, C), of every image by itself
template <class T> __global__ void __launch_bounds__(1024) group_norm_backward(const T *dy, const T *x, const T *y, const T *mean, const T *rho, const T *gamma,
                                                       T *dx, T *dgamma, T *dbeta, int positions, int size) {
    int C = blockDim.x, c = threadIdx.x, group = (blockIdx.x * C + c) / size;
    Index start = (Index)blockIdx.x * positions * C + c;
    T *part = (T *)shared, mu = mean[group], r = rho[group], sum = 0, dot = 0;
    for (int p = threadIdx.y; p < positions; p += blockDim.y) {
        Index i = start + p * C;
        T g = y && !(y[i] > 0) ? 0 : dy[i];
        sum += g;
        dot += g * ((x[i] - mu) * r);
    }
    T mean_sum = group_mean(gamma[c] * sum, size, positions), mean_dot = group_mean(gamma[c] * dot, size, positions);
    for (int p = threadIdx.y; p < positions; p += blockDim.y) {
        Index i = start + p * C;
        T g = y && !(y[i] > 0) ? 0 : dy[i];
        dx[i] = r * (gamma[c] * g - mean_sum - (x[i] - mu) * r * mean_dot);
    }
    for (int which = 0; which < 2; which++) {
        __syncthreads();
        part[threadIdx.y * C + c] = which ? dot : sum;
        __syncthreads();
        if (threadIdx.y == 0) {
            T total = 0;
            for (int w = 0; w < blockDim.y; w++) total += part[w * C + c];
            (which ? dgamma : dbeta)[blockIdx.x * C + c] = total;
        }
    }
}

// ------------------------------------- windows of size × size in steps of `stride`, "SAME" padding: a block a pixel

#define WINDOWS int h, int w, int C, int h_out, int w_out, int size, int stride, int top, int left

#define PIXEL(height, width) int j = blockIdx.x % (width), i = blockIdx.x / (width) % (height), n = blockIdx.x / (width) / (height)

// x: (N, h, w, C) -> columns: (N·h_out·w_out, size·size·C); the padding is 0
template <class T> __global__ void im2col(const T *x, T *columns, WINDOWS) {
    PIXEL(h_out, w_out);
    columns += (Index)blockIdx.x * size * size * C;
    for (int t = threadIdx.x; t < size * size * C; t += blockDim.x) {
        int row = i * stride - top + t / C / size, column = j * stride - left + t / C % size;
        bool inside = row >= 0 && row < h && column >= 0 && column < w;
        columns[t] = inside ? x[(((Index)n * h + row) * w + column) * C + t % C] : 0;
    }
}

// The transpose: every pixel collects its gradient from the windows that it is in
template <class T> __global__ void col2im(const T *dcolumns, T *dx, WINDOWS) {
    PIXEL(h, w);
    for (int c = threadIdx.x; c < C; c += blockDim.x) {
        T sum = 0;
        for (int a = 0; a < size; a++) for (int b = 0; b < size; b++) {
            int row = i + top - a, column = j + left - b; // stride times the window of which (i, j) is place (a, b)
            if (row < 0 || row % stride || column < 0 || column % stride) continue;
            row /= stride; column /= stride;
            if (row >= h_out || column >= w_out) continue;
            sum += dcolumns[((((Index)n * h_out + row) * w_out + column) * size * size + a * size + b) * C + c];
        }
        dx[(Index)blockIdx.x * C + c] = sum;
    }
}

// place: where in its window the maximum is, a·size + b; of several equal ones, the first
template <class T> __global__ void max_pool(const T *x, T *y, unsigned char *place, WINDOWS) {
    PIXEL(h_out, w_out);
    for (int c = threadIdx.x; c < C; c += blockDim.x) {
        T best = lowest<T>();
        int where = -1;
        for (int a = 0; a < size; a++) for (int b = 0; b < size; b++) {
            int row = i * stride - top + a, column = j * stride - left + b;
            if (row < 0 || row >= h || column < 0 || column >= w) continue;
            T value = x[(((Index)n * h + row) * w + column) * C + c];
            if (where < 0 || value > best || value != value) { best = value; where = a * size + b; }
        }
        y[(Index)blockIdx.x * C + c] = best;
        place[(Index)blockIdx.x * C + c] = where;
    }
}

template <class T> __global__ void max_pool_backward(const T *dy, const unsigned char *place, T *dx, WINDOWS) {
    PIXEL(h, w);
    for (int c = threadIdx.x; c < C; c += blockDim.x) {
        T sum = 0;
        for (int a = 0; a < size; a++) for (int b = 0; b < size; b++) {
            int row = i + top - a, column = j + left - b;
            if (row < 0 || row % stride || column < 0 || column % stride) continue;
            row /= stride; column /= stride;
            if (row >= h_out || column >= w_out) continue;
            Index window = (((Index)n * h_out + row) * w_out + column) * C + c;
            if (place[window] == a * size + b) sum += dy[window];
        }
        dx[(Index)blockIdx.x * C + c] = sum;
    }
}

// ------------------------------------------------------------------------------ optimisers: a thread a parameter

template <class T> __global__ void sgd_step(const T *theta, const T *g, const T *m, T *new_theta, T *new_m, Index n, T eta, T decay,
                                            T momentum, int nesterov) {
    Index i = (Index)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    T slope = g[i] + decay * theta[i];
    new_m[i] = momentum * m[i] + slope;
    new_theta[i] = theta[i] - eta * (nesterov ? slope + momentum * new_m[i] : new_m[i]);
}

// less1 = 1 − β₁, less2 = 1 − β₂; eta is divided by 1 − β₁ᵗ, and root2 is (1 − β₂ᵗ)^½
template <class T> __global__ void adam_step(const T *theta, const T *g, const T *m, const T *v, T *new_theta, T *new_m, T *new_v,
                                             Index n, T eta, T shrink, T decay, T less1, T beta2, T less2, T root2, T eps) {
    Index i = (Index)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    T slope = g[i] + decay * theta[i];
    new_m[i] = m[i] + less1 * (slope - m[i]);
    new_v[i] = beta2 * v[i] + less2 * slope * slope;
    new_theta[i] = shrink * theta[i] - eta * new_m[i] / (sqrt(new_v[i]) / root2 + eps);
}
