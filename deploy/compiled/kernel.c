/* The products of a fused pass, S V and S^T Y, for entries as they are stored.

   Entries are converted in registers; NumPy has to write them out as float64 first. Blocks of
   vectors are C-contiguous float64. All sums are float64.

   Each entry of Y is one sum over the columns in their order, and each entry of Z one sum over the
   rows in theirs. So neither the number of rows that are done at once nor the widths of the vectors
   change a bit, and all processors with a fused multiply-add give the same bits.

   Rows are done STRIP at a time, columns CHUNK at a time: a chunk of V or Z (16 columns: 64 KiB) and
   the entries of a strip stay in the cache.
*/

#include <stddef.h>

typedef double wide __attribute__((vector_size(64), aligned(8), may_alias));
typedef double half __attribute__((vector_size(32), aligned(8), may_alias));
typedef double pair __attribute__((vector_size(16), aligned(8), may_alias));

enum { STRIP = 8, CHUNK = 512 };

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && defined(__gnu_linux__)
#define CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define CLONES
#endif

#define INLINE static inline __attribute__((always_inline))

/* Columns c .. c + COUNT * width of V (ld b) times a strip of `rows` rows, COUNT vectors at once. */
#define STRIPS(NAME, ENTRY, VECTOR, COUNT, ROWS)                                                   \
    INLINE void forward_##NAME##_##ROWS(const ENTRY *S, ptrdiff_t down, ptrdiff_t along,           \
                                        ptrdiff_t n, const double *V, double *Y, ptrdiff_t b) {    \
        VECTOR sum[ROWS][COUNT];                                                                   \
        for (int r = 0; r < ROWS; r++)                                                             \
            for (int k = 0; k < COUNT; k++) sum[r][k] = *((VECTOR *)(Y + r * b) + k);              \
        for (ptrdiff_t j = 0; j < n; j++) {                                                        \
            const VECTOR *v = (const VECTOR *)(V + j * b);                                         \
            for (int r = 0; r < ROWS; r++) {                                                       \
                const double s = (double)S[r * down + j * along];                                  \
                for (int k = 0; k < COUNT; k++) sum[r][k] += s * v[k];                             \
            }                                                                                      \
        }                                                                                          \
        for (int r = 0; r < ROWS; r++)                                                             \
            for (int k = 0; k < COUNT; k++) *((VECTOR *)(Y + r * b) + k) = sum[r][k];              \
    }                                                                                              \
    INLINE void backward_##NAME##_##ROWS(const ENTRY *S, ptrdiff_t down, ptrdiff_t along,          \
                                         ptrdiff_t n, const double *Y, double *Z, ptrdiff_t b) {   \
        VECTOR y[ROWS][COUNT];                                                                     \
        for (int r = 0; r < ROWS; r++)                                                             \
            for (int k = 0; k < COUNT; k++) y[r][k] = *((const VECTOR *)(Y + r * b) + k);          \
        for (ptrdiff_t j = 0; j < n; j++) {                                                        \
            VECTOR *z = (VECTOR *)(Z + j * b), sum[COUNT];                                         \
            for (int k = 0; k < COUNT; k++) sum[k] = z[k];                                         \
            for (int r = 0; r < ROWS; r++) {                                                       \
                const double s = (double)S[r * down + j * along];                                  \
                for (int k = 0; k < COUNT; k++) sum[k] += s * y[r][k];                             \
            }                                                                                      \
            for (int k = 0; k < COUNT; k++) z[k] = sum[k];                                         \
        }                                                                                          \
    }

#define WIDTHS(NAME, ENTRY, VECTOR, COUNT)                                                         \
    STRIPS(NAME, ENTRY, VECTOR, COUNT, 8)                                                          \
    STRIPS(NAME, ENTRY, VECTOR, COUNT, 1)

/* One strip, all columns of the block: as many as fit at 16, then what is left at 8, 4, 2, 1. */
#define COLUMNS(DO, SUFFIX, ROWS, P, Q)                                                            \
    {                                                                                              \
        ptrdiff_t c = 0;                                                                           \
        for (; c + 16 <= b; c += 16) DO##_##SUFFIX##16_##ROWS(s, down, along, w, P + c, Q + c, b); \
        if (c + 8 <= b) DO##_##SUFFIX##8_##ROWS(s, down, along, w, P + c, Q + c, b), c += 8;       \
        if (c + 4 <= b) DO##_##SUFFIX##4_##ROWS(s, down, along, w, P + c, Q + c, b), c += 4;       \
        if (c + 2 <= b) DO##_##SUFFIX##2_##ROWS(s, down, along, w, P + c, Q + c, b), c += 2;       \
        if (c < b) DO##_##SUFFIX##1_##ROWS(s, down, along, w, P + c, Q + c, b);                    \
    }

#define PRODUCTS(SUFFIX, ENTRY)                                                                    \
    WIDTHS(SUFFIX##16, ENTRY, wide, 2)                                                             \
    WIDTHS(SUFFIX##8, ENTRY, wide, 1)                                                              \
    WIDTHS(SUFFIX##4, ENTRY, half, 1)                                                              \
    WIDTHS(SUFFIX##2, ENTRY, pair, 1)                                                              \
    WIDTHS(SUFFIX##1, ENTRY, double, 1)                                                            \
    CLONES void forward_##SUFFIX(const ENTRY *S, ptrdiff_t m, ptrdiff_t n, ptrdiff_t down,         \
                                 ptrdiff_t along, const double *V, double *Y, ptrdiff_t b) {       \
        for (ptrdiff_t j = 0; j < n; j += CHUNK) {                                                 \
            const ptrdiff_t w = n - j < CHUNK ? n - j : CHUNK;                                     \
            const double *v = V + j * b;                                                           \
            ptrdiff_t i = 0;                                                                       \
            for (; i + STRIP <= m; i += STRIP) {                                                   \
                const ENTRY *s = S + i * down + j * along;                                         \
                double *y = Y + i * b;                                                             \
                COLUMNS(forward, SUFFIX, 8, v, y)                                                  \
            }                                                                                      \
            for (; i < m; i++) {                                                                   \
                const ENTRY *s = S + i * down + j * along;                                         \
                double *y = Y + i * b;                                                             \
                COLUMNS(forward, SUFFIX, 1, v, y)                                                  \
            }                                                                                      \
        }                                                                                          \
    }                                                                                              \
    CLONES void backward_##SUFFIX(const ENTRY *S, ptrdiff_t m, ptrdiff_t n, ptrdiff_t down,        \
                                  ptrdiff_t along, const double *Y, double *Z, ptrdiff_t b) {      \
        for (ptrdiff_t j = 0; j < n; j += CHUNK) {                                                 \
            const ptrdiff_t w = n - j < CHUNK ? n - j : CHUNK;                                     \
            double *z = Z + j * b;                                                                 \
            ptrdiff_t i = 0;                                                                       \
            for (; i + STRIP <= m; i += STRIP) {                                                   \
                const ENTRY *s = S + i * down + j * along;                                         \
                const double *y = Y + i * b;                                                       \
                COLUMNS(backward, SUFFIX, 8, y, z)                                                 \
            }                                                                                      \
            for (; i < m; i++) {                                                                   \
                const ENTRY *s = S + i * down + j * along;                                         \
                const double *y = Y + i * b;                                                       \
                COLUMNS(backward, SUFFIX, 1, y, z)                                                 \
            }                                                                                      \
        }                                                                                          \
    }

PRODUCTS(single, float)
PRODUCTS(twofold, double)
