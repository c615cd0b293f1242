#if defined(__x86_64__) && defined(__GNUC__) && !defined(_WIN32)

#include "md5.h"

#include <immintrin.h>
#include <signal.h>
#include <string.h>

#ifndef MD5_AVX512
#define MD5_AVX512 1 /* 0 makes a build for the test of the other kernel */
#endif

enum {
    BLOCK = MD5_BLOCK,
    LANES = 8,           /* words of 32 bits in a vector */
    STRIDE = 512,        /* blocks after which others may join: about 50 microseconds */
    WORTH_HANDING = 256, /* blocks from which on it pays to hand them to the thread */
};

/* -- the sixty-four rounds, for numbers and for vectors of them --------------------------------------------------- */

/* floor(2^32 * |sin(i)|), i = 1 .. 64 (RFC 1321 section 3.4). */
static const uint32_t CONSTANTS[64] = {
    0xd76aa478, 0xe8c7b756, 0x242070db, 0xc1bdceee, 0xf57c0faf, 0x4787c62a, 0xa8304613, 0xfd469501,
    0x698098d8, 0x8b44f7af, 0xffff5bb1, 0x895cd7be, 0x6b901122, 0xfd987193, 0xa679438e, 0x49b40821,
    0xf61e2562, 0xc040b340, 0x265e5a51, 0xe9b6c7aa, 0xd62f105d, 0x02441453, 0xd8a1e681, 0xe7d3fbc8,
    0x21e1cde6, 0xc33707d6, 0xf4d50d87, 0x455a14ed, 0xa9e3e905, 0xfcefa3f8, 0x676f02d9, 0x8d2a4c8a,
    0xfffa3942, 0x8771f681, 0x6d9d6122, 0xfde5380c, 0xa4beea44, 0x4bdecfa9, 0xf6bb4b60, 0xbebfbc70,
    0x289b7ec6, 0xeaa127fa, 0xd4ef3085, 0x04881d05, 0xd9d4d039, 0xe6db99e5, 0x1fa27cf8, 0xc4ac5665,
    0xf4292244, 0x432aff97, 0xab9423a7, 0xfc93a039, 0x655b59c3, 0x8f0ccc92, 0xffeff47d, 0x85845dd1,
    0x6fa87e4f, 0xfe2ce6e0, 0xa3014314, 0x4e0811a1, 0xf7537e82, 0xbd3af235, 0x2ad7d2bb, 0xeb86d391,
};

/* What is known early is added early, so that only the function of the last result is on the critical path. Compilers
 * know that sums may be taken in any order and choose a worse one, unless they must have this one ready. The constants
 * are read from memory for the same reason: as parts of instructions they would pass through an integer register. */
#define ROUND(f, a, b, c, d, i, word, bits)          \
    a = ADD(a, ADD(words[word], EACH(constants[i]))); \
    READY(a);                                        \
    a = ADD(b, ROTATE(ADD(a, f(b, c, d)), bits))

#define FOUR_ROUNDS(f, i, w0, w1, w2, w3, s0, s1, s2, s3) \
    ROUND(f, a, b, c, d, i, w0, s0);                      \
    ROUND(f, d, a, b, c, i + 1, w1, s1);                  \
    ROUND(f, c, d, a, b, i + 2, w2, s2);                  \
    ROUND(f, b, c, d, a, i + 3, w3, s3)

#define ALL_ROUNDS                                         \
    FOUR_ROUNDS(F, 0, 0, 1, 2, 3, 7, 12, 17, 22);          \
    FOUR_ROUNDS(F, 4, 4, 5, 6, 7, 7, 12, 17, 22);          \
    FOUR_ROUNDS(F, 8, 8, 9, 10, 11, 7, 12, 17, 22);        \
    FOUR_ROUNDS(F, 12, 12, 13, 14, 15, 7, 12, 17, 22);     \
    FOUR_ROUNDS(G, 16, 1, 6, 11, 0, 5, 9, 14, 20);         \
    FOUR_ROUNDS(G, 20, 5, 10, 15, 4, 5, 9, 14, 20);        \
    FOUR_ROUNDS(G, 24, 9, 14, 3, 8, 5, 9, 14, 20);         \
    FOUR_ROUNDS(G, 28, 13, 2, 7, 12, 5, 9, 14, 20);        \
    FOUR_ROUNDS(H, 32, 5, 8, 11, 14, 4, 11, 16, 23);       \
    FOUR_ROUNDS(H, 36, 1, 4, 7, 10, 4, 11, 16, 23);        \
    FOUR_ROUNDS(H, 40, 13, 0, 3, 6, 4, 11, 16, 23);        \
    FOUR_ROUNDS(H, 44, 9, 12, 15, 2, 4, 11, 16, 23);       \
    FOUR_ROUNDS(I, 48, 0, 7, 14, 5, 6, 10, 15, 21);        \
    FOUR_ROUNDS(I, 52, 12, 3, 10, 1, 6, 10, 15, 21);       \
    FOUR_ROUNDS(I, 56, 8, 15, 6, 13, 6, 10, 15, 21);       \
    FOUR_ROUNDS(I, 60, 4, 11, 2, 9, 6, 10, 15, 21)

/* -- one stream --------------------------------------------------------------------------------------------------- */

#define ADD(x, y) ((uint32_t)((x) + (y)))
#define ROTATE(x, bits) ((x) << (bits) | (x) >> (32 - (bits)))
#define EACH(number) (number)
#define READY(x) __asm__("" : "+r"(x))
#define F(x, y, z) ((z) ^ ((x) & ((y) ^ (z))))
#define G(x, y, z) (((x) & (z)) + ((y) & ~(z))) /* a sum, as no bit is in both: one part need not wait for the other */
#define H(x, y, z) ((x) ^ (y) ^ (z))
#define I(x, y, z) ((y) ^ ((x) | ~(z)))

static void
digest_one(uint32_t state[4], const uint8_t *bytes, size_t blocks)
{
    const uint32_t *constants = CONSTANTS;
    uint32_t a = state[0], b = state[1], c = state[2], d = state[3], words[16];

    __asm__("" : "+r"(constants));
    for (; blocks; blocks--, bytes += BLOCK) {
        const uint32_t a0 = a, b0 = b, c0 = c, d0 = d;
        memcpy(words, bytes, BLOCK); /* little-endian, as x86 is */
        ALL_ROUNDS;
        a += a0;
        b += b0;
        c += c0;
        d += d0;
    }
    state[0] = a;
    state[1] = b;
    state[2] = c;
    state[3] = d;
}

#undef ADD
#undef ROTATE
#undef EACH
#undef READY
#undef F
#undef G
#undef H
#undef I

/* -- eight streams ------------------------------------------------------------------------------------------------ */

typedef uint32_t States[4][LANES] __attribute__((aligned(32)));
typedef void Kernel(States states, const uint8_t *const bytes[LANES], size_t blocks);

/* Turn eight words of each of eight streams into eight vectors of one word each. */
__attribute__((target("avx2"), always_inline)) static inline void
turn(__m256i words[8], const uint8_t *const bytes[8], size_t at)
{
    __m256i row[8], two[8], four[8];

#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) {
        row[i] = _mm256_loadu_si256((const __m256i *)(bytes[i] + at));
    }
#pragma GCC unroll 4
    for (int i = 0; i < 8; i += 2) {
        two[i] = _mm256_unpacklo_epi32(row[i], row[i + 1]);
        two[i + 1] = _mm256_unpackhi_epi32(row[i], row[i + 1]);
    }
#pragma GCC unroll 2
    for (int i = 0; i < 8; i += 4) {
        four[i] = _mm256_unpacklo_epi64(two[i], two[i + 2]);
        four[i + 1] = _mm256_unpackhi_epi64(two[i], two[i + 2]);
        four[i + 2] = _mm256_unpacklo_epi64(two[i + 1], two[i + 3]);
        four[i + 3] = _mm256_unpackhi_epi64(two[i + 1], two[i + 3]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        words[i] = _mm256_permute2x128_si256(four[i], four[i + 4], 0x20);
        words[i + 4] = _mm256_permute2x128_si256(four[i], four[i + 4], 0x31);
    }
}

#define EIGHT_STREAMS                                               \
    const uint32_t *constants = CONSTANTS;                          \
    __m256i a = _mm256_load_si256((const __m256i *)states[0]);      \
    __m256i b = _mm256_load_si256((const __m256i *)states[1]);      \
    __m256i c = _mm256_load_si256((const __m256i *)states[2]);      \
    __m256i d = _mm256_load_si256((const __m256i *)states[3]);      \
    __m256i words[16];                                              \
                                                                    \
    __asm__("" : "+r"(constants));                                  \
    for (size_t at = 0; at < blocks * BLOCK; at += BLOCK) {         \
        const __m256i a0 = a, b0 = b, c0 = c, d0 = d;               \
        turn(words, bytes, at);                                     \
        turn(words + 8, bytes, at + BLOCK / 2);                     \
        ALL_ROUNDS;                                                 \
        a = ADD(a, a0);                                             \
        b = ADD(b, b0);                                             \
        c = ADD(c, c0);                                             \
        d = ADD(d, d0);                                             \
    }                                                               \
    _mm256_store_si256((__m256i *)states[0], a);                    \
    _mm256_store_si256((__m256i *)states[1], b);                    \
    _mm256_store_si256((__m256i *)states[2], c);                    \
    _mm256_store_si256((__m256i *)states[3], d)

#define ADD(x, y) _mm256_add_epi32(x, y)
#define EACH(number) _mm256_set1_epi32((int)(number))
#define READY(x) __asm__("" : "+x"(x))

#define ROTATE(x, bits) _mm256_or_si256(_mm256_slli_epi32(x, bits), _mm256_srli_epi32(x, 32 - (bits)))
#define F(x, y, z) _mm256_xor_si256(z, _mm256_and_si256(x, _mm256_xor_si256(y, z)))
#define G(x, y, z) _mm256_or_si256(_mm256_and_si256(x, z), _mm256_andnot_si256(z, y))
#define H(x, y, z) _mm256_xor_si256(x, _mm256_xor_si256(y, z))
#define I(x, y, z) _mm256_xor_si256(y, _mm256_or_si256(x, _mm256_xor_si256(z, _mm256_set1_epi32(-1))))

__attribute__((target("avx2"))) static void
digest_eight_by_avx2(States states, const uint8_t *const bytes[LANES], size_t blocks)
{
    EIGHT_STREAMS;
}

#undef READY
#undef ROTATE
#undef F
#undef G
#undef H
#undef I

/* One instruction for each rotation, and one for any function of three: the numbers are their truth tables, the bits
 * from the highest for x, y, z = 1, 1, 1 to the lowest for 0, 0, 0. */
#define READY(x) __asm__("" : "+v"(x))
#define ROTATE(x, bits) _mm256_rol_epi32(x, bits)
#define F(x, y, z) _mm256_ternarylogic_epi32(x, y, z, 0xca)
#define G(x, y, z) _mm256_ternarylogic_epi32(x, y, z, 0xe4)
#define H(x, y, z) _mm256_ternarylogic_epi32(x, y, z, 0x96)
#define I(x, y, z) _mm256_ternarylogic_epi32(x, y, z, 0x39)

__attribute__((target("avx2,avx512f,avx512vl"))) static void
digest_eight_by_avx512(States states, const uint8_t *const bytes[LANES], size_t blocks)
{
    EIGHT_STREAMS;
}

static Kernel *digest_eight;

/* Take so many blocks from each of these streams, at least one and at most LANES of them. */
static void
advance(Stream *const streams[], int count, size_t blocks)
{
    States states;
    const uint8_t *bytes[LANES];

    if (count == 1) {
        digest_one(streams[0]->state, streams[0]->bytes, blocks);
    } else {
        for (int lane = 0; lane < LANES; lane++) {
            const Stream *stream = streams[lane < count ? lane : 0]; /* lanes to spare do again what the first does */
            bytes[lane] = stream->bytes;
            for (int i = 0; i < 4; i++) {
                states[i][lane] = stream->state[i];
            }
        }
        digest_eight(states, bytes, blocks);
        for (int lane = 0; lane < count; lane++) {
            for (int i = 0; i < 4; i++) {
                streams[lane]->state[i] = states[i][lane];
            }
        }
    }
    for (int lane = 0; lane < count; lane++) {
        streams[lane]->bytes += blocks * BLOCK;
        streams[lane]->blocks -= blocks;
    }
}

/* -- the thread that digests -------------------------------------------------------------------------------------- */

static pthread_mutex_t door = PTHREAD_MUTEX_INITIALIZER; /* of what follows, and of what messages in lanes say of it */
static pthread_cond_t arrived = PTHREAD_COND_INITIALIZER;
static Message *lanes[LANES];
static int taken;
static int entered; /* threads that will bring more */
static int awaited; /* messages in lanes for which a thread waits */
static bool is_started;

/* A child has neither the thread nor those who wait for it. */
static void
forget(void)
{
    door = (pthread_mutex_t)PTHREAD_MUTEX_INITIALIZER;
    arrived = (pthread_cond_t)PTHREAD_COND_INITIALIZER;
    memset(lanes, 0, sizeof lanes);
    taken = entered = awaited = 0;
    is_started = false;
}

/* Whether it is worth while to go on: fewer lanes take as long as all of them, so those who may still come are waited
 * for, until somebody waits for us. Not for the last one: with two, the other's turn would be lost. */
static bool
is_worth_while(void)
{
    return taken > 0 && (awaited > 0 || taken + 1 >= entered || taken == LANES);
}

static void
take_next(Message *message)
{
    const Piece *piece = &message->pieces[message->done % MD5_BEGUN];

    message->stream.bytes = piece->bytes;
    message->stream.blocks = piece->blocks;
}

/* The piece that a lane took is done. */
static void
finish(int lane)
{
    Message *message = lanes[lane];

    if (++message->done < message->begun) {
        take_next(message);
    } else {
        lanes[lane] = NULL;
        taken--;
    }
    if (message->awaited && message->done >= message->awaited) {
        message->awaited = 0;
        awaited--;
        pthread_cond_signal(&message->came); /* it may be gone as soon as the door is open */
    }
}

static void *
work(void *nothing)
{
    pthread_mutex_lock(&door);
    for (;;) {
        Stream *streams[LANES];
        int places[LANES], count = 0;
        size_t blocks = STRIDE;

        while (!is_worth_while()) {
            pthread_cond_wait(&arrived, &door);
        }
        for (int lane = 0; lane < LANES; lane++) {
            if (lanes[lane] != NULL) {
                places[count] = lane;
                streams[count++] = &lanes[lane]->stream;
                if (lanes[lane]->stream.blocks < blocks) {
                    blocks = lanes[lane]->stream.blocks;
                }
            }
        }
        pthread_mutex_unlock(&door);
        advance(streams, count, blocks);
        pthread_mutex_lock(&door);
        for (int i = 0; i < count; i++) {
            if (streams[i]->blocks == 0) {
                finish(places[i]);
            }
        }
    }
    return nothing;
}

/* Start the thread, deaf to signals, which are the interpreter's business; the door is closed. */
static bool
start(void)
{
    pthread_t thread;
    sigset_t all, before;

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    is_started = pthread_create(&thread, NULL, work, NULL) == 0;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (is_started) {
        pthread_detach(thread);
    }
    return is_started;
}

/* Put a message's next piece behind those that are not done, or, where there are none, into a lane; false where all of
 * these are taken, or there can be no thread. */
static bool
hand_over(Message *message, const uint8_t *bytes, size_t blocks)
{
    bool has_lane, can;

    pthread_mutex_lock(&door);
    has_lane = message->done < message->begun;
    can = has_lane || (taken < LANES && (is_started || start()));
    if (can) {
        message->pieces[message->begun++ % MD5_BEGUN] = (Piece){.bytes = bytes, .blocks = blocks};
    }
    if (can && !has_lane) {
        int lane = 0;
        while (lanes[lane] != NULL) {
            lane++;
        }
        take_next(message);
        lanes[lane] = message;
        taken++;
        if (is_worth_while()) {
            pthread_cond_signal(&arrived);
        }
    }
    pthread_mutex_unlock(&door);
    return can;
}

/* Wait until at most so many pieces of a message are not done. */
static void
wait_until(Message *message, uint64_t left)
{
    pthread_mutex_lock(&door);
    if (message->begun - message->done > left) {
        message->awaited = message->begun - left;
        awaited++;
        pthread_cond_signal(&arrived);
        while (message->awaited) {
            pthread_cond_wait(&message->came, &door);
        }
    }
    pthread_mutex_unlock(&door);
}

bool
md5_prepare(void)
{
    static bool is_prepared = false; /* there may be several interpreters */

    __builtin_cpu_init();
    if (!__builtin_cpu_supports("avx2")) {
        return false;
    }
    digest_eight = MD5_AVX512 && __builtin_cpu_supports("avx512vl") ? digest_eight_by_avx512 : digest_eight_by_avx2;
    is_prepared = is_prepared || pthread_atfork(NULL, NULL, forget) == 0;
    return is_prepared;
}

/* -- messages as they come ---------------------------------------------------------------------------------------- */

static const uint32_t START[4] = {0x67452301, 0xefcdab89, 0x98badcfe, 0x10325476};

void
md5_open(Message *message)
{
    memset(message, 0, sizeof *message);
    memcpy(message->stream.state, START, sizeof START);
    pthread_cond_init(&message->came, NULL);
}

void
md5_close(Message *message)
{
    if (message->done == message->begun) { /* else its thread is another process's, and would be waited for */
        pthread_cond_destroy(&message->came);
    }
}

void
md5_enter(void)
{
    pthread_mutex_lock(&door);
    entered++;
    pthread_mutex_unlock(&door);
}

void
md5_leave(void)
{
    pthread_mutex_lock(&door);
    entered--;
    if (is_worth_while()) {
        pthread_cond_signal(&arrived);
    }
    pthread_mutex_unlock(&door);
}

void
md5_settle(Message *message)
{
    if (message->begun) { /* else it has never met the thread, nor need it meet the door */
        wait_until(message, 0);
    }
}

/* Take bytes that begin with a block. */
static void
take(Message *message, const uint8_t *bytes, size_t length)
{
    const size_t blocks = length / BLOCK;

    if (blocks < WORTH_HANDING || !hand_over(message, bytes, blocks)) {
        md5_settle(message);
        digest_one(message->stream.state, bytes, blocks);
    }
    memcpy(message->rest, bytes + blocks * BLOCK, length % BLOCK);
}

void
md5_begin(Message *message, const uint8_t *bytes, size_t length)
{
    const size_t there = message->length % BLOCK, lacking = BLOCK - there;

    md5_settle(message);
    message->length += length;
    if (there == 0) {
        take(message, bytes, length);
    } else if (length < lacking) {
        memcpy(message->rest + there, bytes, length);
    } else {
        memcpy(message->rest + there, bytes, lacking);
        digest_one(message->stream.state, message->rest, 1);
        take(message, bytes + lacking, length - lacking);
    }
}

void
md5_follow(Message *message, uint8_t *bytes, size_t length)
{
    const size_t there = message->length % BLOCK;

    wait_until(message, MD5_BEGUN - 1);
    memcpy(bytes - there, message->rest, there);
    message->length += length;
    take(message, bytes - there, there + length);
}

/* Write what follows the last whole block of a message, and its padding; return how many blocks that are. */
static size_t
pad(uint8_t last[2 * BLOCK], const uint8_t *rest, uint64_t length)
{
    const size_t count = length % BLOCK, blocks = count < BLOCK - 8 ? 1 : 2;
    const uint64_t bits = length * 8;

    memcpy(last, rest, count);
    memset(last + count, 0, 2 * BLOCK - count);
    last[count] = 0x80;
    memcpy(last + blocks * BLOCK - 8, &bits, 8);
    return blocks;
}

void
md5_digest(const Message *message, uint32_t digest[4])
{
    uint8_t last[2 * BLOCK];

    memcpy(digest, message->stream.state, sizeof message->stream.state);
    digest_one(digest, last, pad(last, message->rest, message->length));
}

void
md5_copy(Message *to, const Message *from)
{
    memcpy(to->stream.state, from->stream.state, sizeof to->stream.state);
    memcpy(to->rest, from->rest, sizeof to->rest);
    to->length = from->length;
}

/* -- whole messages ----------------------------------------------------------------------------------------------- */

/* Begin what is next of a message; false at its end. */
static bool
go_on(Whole *whole)
{
    if (whole->stream.blocks == 0 && !whole->is_padded) {
        whole->is_padded = true;
        whole->stream.blocks = pad(whole->last, whole->bytes + whole->length / BLOCK * BLOCK, whole->length);
        whole->stream.bytes = whole->last;
    }
    return whole->stream.blocks != 0;
}

static void
open_whole(Whole *whole)
{
    whole->is_padded = false;
    memcpy(whole->stream.state, START, sizeof START);
    whole->stream.bytes = whole->bytes;
    whole->stream.blocks = whole->length / BLOCK;
}

void
md5_all(Whole wholes[], size_t count)
{
    Whole *open[LANES];
    Stream *streams[LANES];
    size_t next = 0;
    int opened = 0;

    for (;;) {
        size_t blocks = SIZE_MAX;
        int kept = 0;

        for (int lane = 0; lane < opened; lane++) {
            if (go_on(open[lane])) {
                open[kept++] = open[lane];
            } else {
                memcpy(open[lane]->digest, open[lane]->stream.state, sizeof open[lane]->digest);
            }
        }
        for (opened = kept; opened < LANES && next < count; next++) {
            open_whole(&wholes[next]);
            go_on(&wholes[next]); /* a short one has nothing but its end */
            open[opened++] = &wholes[next];
        }
        if (opened == 0) {
            return;
        }
        for (int lane = 0; lane < opened; lane++) {
            streams[lane] = &open[lane]->stream;
            blocks = streams[lane]->blocks < blocks ? streams[lane]->blocks : blocks;
        }
        advance(streams, opened, blocks);
    }
}

#endif
