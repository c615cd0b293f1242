/* MD5 (RFC 1321) of several streams of bytes at once.
 *
 * One MD5 is a chain of operations of which each waits for the one before, so a core that computes it does one thing
 * at a time. Vectors have lanes: they compute eight in little more than the time of one. Long streams are left to one
 * thread, which takes up to eight at once, each in a lane; one that comes meanwhile joins after the stride that is
 * under way. It begins late, so that lanes fill: when all but one have come whose threads said that they bring more,
 * or when one of these has nothing else to do than wait. Each may have several pieces there, so that neither side
 * waits for the other at every one of them. It is for x86 processors with AVX2, and uses AVX-512VL where that is
 * there. Nothing here knows of Python.
 */
#ifndef FRAMEFETCH_MD5_H
#define FRAMEFETCH_MD5_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    MD5_BLOCK = 64,             /* bytes that it takes at a time */
    MD5_PIECES = 4,             /* pieces of a message that need room at once: one is received, the others are: */
    MD5_BEGUN = MD5_PIECES - 1, /* those that were begun and are not done */
};

/* Blocks that are still to be taken, and the state up to them. */
typedef struct {
    uint32_t state[4];
    const uint8_t *bytes;
    size_t blocks;
} Stream;

typedef struct {
    const uint8_t *bytes;
    size_t blocks;
} Piece;

/* A message as it comes. While fewer pieces are done than were begun, theirs are bytes that must stay. */
typedef struct {
    Stream stream; /* what is being taken of the first that is not done */
    uint64_t length;
    uint8_t rest[MD5_BLOCK]; /* what came behind the last whole block */
    Piece pieces[MD5_BEGUN]; /* by their number, modulo that */
    uint64_t begun, done;
    uint64_t awaited; /* how many must be done for the thread that waits, 0 where none does */
    pthread_cond_t came;
} Message;

/* A whole message. */
typedef struct {
    const uint8_t *bytes;
    size_t length;
    uint32_t digest[4];
    Stream stream;
    bool is_padded;
    uint8_t last[2 * MD5_BLOCK];
} Whole;

/* Find out what the processor can do; to be called before all else. False where it has no AVX2. */
bool md5_prepare(void);

void md5_open(Message *message);
void md5_close(Message *message);
/* Begin to take bytes, which must not change until `md5_settle`; whatever was begun before is settled first. */
void md5_begin(Message *message, const uint8_t *bytes, size_t length);
/* The same, but nothing is settled: these bytes, and MD5_BLOCK of room before them, are the caller's again when
 * MD5_BEGUN more of such calls have returned. */
void md5_follow(Message *message, uint8_t *bytes, size_t length);
void md5_settle(Message *message);
/* Say that the caller will begin several times, and that it is through with that, its message settled. */
void md5_enter(void);
void md5_leave(void);
/* The digest of all that came, and a copy; the message must be settled. */
void md5_digest(const Message *message, uint32_t digest[4]);
void md5_copy(Message *to, const Message *from);

void md5_all(Whole wholes[], size_t count);

#endif
