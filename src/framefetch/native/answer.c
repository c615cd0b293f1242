/* An answer of HTTP of which nothing is in doubt, as most are; all others are read in Python (`sources/wire.py`). */
#include "module.h"

#ifdef CAN_BE_NATIVE

#include <string.h>

/* RFC 9110 section 5.6.2. */
static bool
is_token(uint8_t byte)
{
    return (byte >= '0' && byte <= '9') || (byte >= 'A' && byte <= 'Z') || (byte >= 'a' && byte <= 'z') ||
           (byte != 0 && strchr("!#$%&'*+-.^_`|~", byte) != NULL);
}

static bool
is_text(uint8_t byte)
{
    return byte == '\t' || (byte >= ' ' && byte != 0x7f);
}

typedef struct {
    const uint8_t *start, *end;
} Words;

/* Whether words are these, which are in lower case; in ASCII, whatever the locale holds for one letter in two cases. */
static bool
are(Words words, const char *these)
{
    const uint8_t *word = words.start;

    for (; word < words.end && *these; word++, these++) {
        if ((*word >= 'A' && *word <= 'Z' ? *word + ('a' - 'A') : *word) != (uint8_t)*these) {
            return false;
        }
    }
    return word == words.end && !*these;
}

/* Take a line off the beginning of a head, without its end; false where none is whole, or it has what no line has. */
static bool
next_line(Words *head, Words *line)
{
    enum { LONGEST = 8190 };

    line->start = head->start;
    while (head->start < head->end && is_text(*head->start)) {
        head->start++;
    }
    line->end = head->start;
    if (head->end - head->start < 2 || head->start[0] != '\r' || head->start[1] != '\n') {
        return false;
    }
    head->start += 2;
    return line->end - line->start <= LONGEST;
}

/* Split a line into the name of a field and its value; false where it is none. */
static bool
split_field(Words line, Words *name, Words *value)
{
    enum { LONGEST = 256 };

    name->start = name->end = line.start;
    while (name->end < line.end && is_token(*name->end)) {
        name->end++;
    }
    if (name->end == name->start || name->end - name->start > LONGEST || name->end == line.end || *name->end != ':') {
        return false;
    }
    value->start = name->end + 1;
    value->end = line.end;
    while (value->start < value->end && (*value->start == ' ' || *value->start == '\t')) {
        value->start++;
    }
    while (value->end > value->start && (value->end[-1] == ' ' || value->end[-1] == '\t')) {
        value->end--;
    }
    return true;
}

/* Read a length; false where it is none, or larger than any file. */
static bool
read_length(Words digits, size_t *length)
{
    *length = 0;
    for (const uint8_t *digit = digits.start; digit < digits.end; digit++) {
        if (*digit < '0' || *digit > '9') {
            return false;
        }
        *length = *length * 10 + (size_t)(*digit - '0');
    }
    return digits.end > digits.start && digits.end - digits.start <= 18;
}

/* Read a head to its end; false where anything about it needs more care. */
static bool
read_plain(Words *bytes, size_t *length, Words *tag)
{
    enum { LONGEST = 65536 }; /* as in Python, without the blank line */
    static const char status[] = "HTTP/1.1 200";
    const uint8_t *start = bytes->start;
    bool has_length = false;
    Words line, name, value;

    if (!next_line(bytes, &line) || (size_t)(line.end - line.start) < sizeof status - 1 ||
        memcmp(line.start, status, sizeof status - 1) != 0 ||
        (line.end - line.start > (ptrdiff_t)sizeof status - 1 && line.start[sizeof status - 1] != ' ')) {
        return false;
    }
    for (;;) {
        if (!next_line(bytes, &line)) {
            return false;
        }
        if (line.start == line.end) {
            return has_length && line.start - start - 2 <= LONGEST;
        }
        if (!split_field(line, &name, &value)) {
            return false;
        }
        if (are(name, "content-length")) {
            if (has_length || !read_length(value, length)) {
                return false;
            }
            has_length = true;
        } else if (are(name, "etag")) {
            if (tag->start != NULL) {
                return false;
            }
            *tag = value;
        } else if (are(name, "transfer-encoding") || are(name, "content-encoding") || are(name, "content-range") ||
                   are(name, "set-cookie") || (are(name, "connection") && !are(value, "keep-alive"))) {
            return false;
        }
    }
}

PyObject *
plain_answer(PyObject *Py_UNUSED(module), PyObject *data)
{
    Words bytes, tag = {.start = NULL, .end = NULL};
    PyObject *result = NULL;
    Py_buffer view;
    size_t length = 0;

    if (PyObject_GetBuffer(data, &view, PyBUF_SIMPLE) < 0) {
        return NULL;
    }
    bytes = (Words){.start = view.buf, .end = (const uint8_t *)view.buf + view.len};
    if (read_plain(&bytes, &length, &tag) && (size_t)(bytes.end - bytes.start) == length) {
        PyObject *text = tag.start == NULL ? Py_NewRef(Py_None)
                                           : PyUnicode_DecodeLatin1((const char *)tag.start, tag.end - tag.start, NULL);
        if (text != NULL) {
            result = Py_BuildValue("y#N", (const char *)bytes.start, (Py_ssize_t)length, text);
        }
    } else {
        result = Py_NewRef(Py_None);
    }
    PyBuffer_Release(&view);
    return result;
}

#endif
