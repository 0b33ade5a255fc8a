/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Speaks the milter protocol (version 6) as Postfix does, many connections at a time, one message on each, and honours
 * what the milter negotiates away. Usage: milter_load SOCKET_PATH MESSAGES CONCURRENCY RECIPIENT
 * Prints: messages seconds messages_accepted_at_data
 */
#include <arpa/inet.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define NOCONNECT 0x1u
#define NOHELO 0x2u
#define NOMAIL 0x4u
#define NORCPT 0x8u
#define NOBODY 0x10u
#define NOHDRS 0x20u
#define NOEOH 0x40u
#define NR_HDR 0x80u
#define NODATA 0x200u
#define NR_CONN 0x1000u
#define NR_HELO 0x2000u
#define NR_MAIL 0x4000u
#define NR_RCPT 0x8000u
#define NR_DATA 0x10000u
#define NR_EOH 0x40000u
#define NR_BODY 0x80000u
#define OFFERED_STEPS 0x1fffffu
#define OFFERED_ACTIONS 0x1ffu
#define HEADERS 24

struct out { char bytes[16384]; size_t used; };

static const char *socket_path, *recipient_address;
static atomic_long left, accepted_at_data, failed;

static void packet(struct out *out, char command, const char *content, size_t length)
{
    uint32_t size = htonl((uint32_t) (length + 1));
    memcpy(out->bytes + out->used, &size, 4);
    out->bytes[out->used + 4] = command;
    memcpy(out->bytes + out->used + 5, content, length);
    out->used += 5 + length;
}

#define TEXT(out, command, text) packet(out, command, text, sizeof text) /* with its final NUL */

static int flush(int fd, struct out *out)
{
    size_t sent = 0;
    while (sent < out->used) {
        ssize_t n = write(fd, out->bytes + sent, out->used - sent);
        if (n <= 0)
            return -1;
        sent += (size_t) n;
    }
    out->used = 0;
    return 0;
}

static int read_all(int fd, char *into, size_t length)
{
    while (length > 0) {
        ssize_t n = read(fd, into, length);
        if (n <= 0)
            return -1;
        into += n;
        length -= (size_t) n;
    }
    return 0;
}

/* The command octet of the next reply, its content in `content`; -1 when there is none. */
static int reply(int fd, struct out *out, char *content, size_t room)
{
    uint32_t size;
    char command;
    if (flush(fd, out) < 0 || read_all(fd, (char *) &size, 4) < 0)
        return -1;
    size = ntohl(size);
    if (size < 1 || size - 1 > room || read_all(fd, &command, 1) < 0 || read_all(fd, content, size - 1) < 0)
        return -1;
    return (unsigned char) command;
}

/* A step that was not negotiated away; 'c' (continue) when no reply is awaited. */
static int step(int fd, struct out *out, uint32_t steps, uint32_t never, uint32_t silent, char command,
                const char *content, size_t length)
{
    char answer[512];
    if (steps & never)
        return 'c';
    packet(out, command, content, length);
    return (steps & silent) ? 'c' : reply(fd, out, answer, sizeof answer);
}

static int connect_to_milter(void)
{
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    strncpy(address.sun_path, socket_path, sizeof address.sun_path - 1);
    if (fd >= 0 && connect(fd, (struct sockaddr *) &address, sizeof address) < 0) {
        close(fd);
        return -1;
    }
    return fd;
}

static int converse(int fd)
{
    struct out out = { .used = 0 };
    char content[512], text[512];
    uint32_t offer[3] = { htonl(6), htonl(OFFERED_ACTIONS), htonl(OFFERED_STEPS) }, steps;
    int r, at;

    packet(&out, 'O', (char *) offer, sizeof offer);
    if (reply(fd, &out, content, sizeof content) != 'O')
        return -1;
    memcpy(&steps, content + 8, 4);
    steps = ntohl(steps);

    TEXT(&out, 'D', "Cj\0mx.lab.invalid\0{daemon_name}\0mx.lab.invalid\0{daemon_addr}\0" "127.0.0.1\0v\0Postfix 3.7.11\0"
                    "_\0client.example [192.0.2.7]");
    r = step(fd, &out, steps, NOCONNECT, NR_CONN, 'C', "client.example\0" "4\x30\x39" "192.0.2.7", 28);
    if (r == 'c')
        r = step(fd, &out, steps, NOHELO, NR_HELO, 'H', "client.example", 15);
    if (r == 'c') {
        TEXT(&out, 'D', "M{mail_addr}\0sender@client.example\0{mail_host}\0client.example\0{mail_mailer}\0smtp");
        r = step(fd, &out, steps, NOMAIL, NR_MAIL, 'M', "<sender@client.example>", 24);
    }
    if (r == 'c') {
        size_t used = (size_t) sprintf(text, "R{rcpt_addr}") + 1;
        used += (size_t) sprintf(text + used, "%s", recipient_address) + 1;
        memcpy(text + used, "{rcpt_host}\0org.example\0{rcpt_mailer}\0virtual", 46);
        packet(&out, 'D', text, used + 46);
        used = (size_t) sprintf(text, "<%s>", recipient_address) + 1;
        r = step(fd, &out, steps, NORCPT, NR_RCPT, 'R', text, used);
    }
    if (r == 'c') {
        TEXT(&out, 'D', "Ti\0" "4Vx1Qz3kLmz9rT");
        r = step(fd, &out, steps, NODATA, NR_DATA, 'T', "", 0);
        if (r == 'a')
            atomic_fetch_add(&accepted_at_data, 1);
    }
    for (at = 0; r == 'c' && at < HEADERS; at++) {
        size_t used = (size_t) sprintf(text, "X-Header-%02d", at) + 1;
        used += (size_t) sprintf(text + used, " some text of the length that headers have, number %d", at) + 1;
        r = step(fd, &out, steps, NOHDRS, NR_HDR, 'L', text, used);
    }
    if (r == 'c')
        r = step(fd, &out, steps, NOEOH, NR_EOH, 'N', "", 0);
    if (r == 'c') {
        static char body[2048];
        memset(text, 'x', sizeof text);
        memset(body, 'x', sizeof body);
        r = step(fd, &out, steps, NOBODY, NR_BODY, 'B', body, sizeof body);
    }
    if (r == 'c' || r == 's')
        r = step(fd, &out, 0, 0, 0, 'E', "", 0);
    if (r != 'a' && r != 'c')
        return -1;
    packet(&out, 'Q', "", 0);
    return flush(fd, &out);
}

static void *client(void *unused)
{
    (void) unused;
    while (atomic_fetch_sub(&left, 1) > 0) {
        int fd = connect_to_milter();
        if (fd < 0 || converse(fd) < 0)
            atomic_fetch_add(&failed, 1);
        if (fd >= 0)
            close(fd);
    }
    return NULL;
}

int main(int argc, char **argv)
{
    pthread_t threads[256];
    struct timespec begin, end;
    long messages, concurrency, at;

    if (argc != 5 || (messages = atol(argv[2])) < 1 || (concurrency = atol(argv[3])) < 1 || concurrency > 256) {
        fprintf(stderr, "usage: milter_load SOCKET_PATH MESSAGES CONCURRENCY RECIPIENT\n");
        return 2;
    }
    socket_path = argv[1];
    recipient_address = argv[4];
    atomic_store(&left, messages);
    clock_gettime(CLOCK_MONOTONIC, &begin);
    for (at = 0; at < concurrency; at++)
        pthread_create(&threads[at], NULL, client, NULL);
    for (at = 0; at < concurrency; at++)
        pthread_join(threads[at], NULL);
    clock_gettime(CLOCK_MONOTONIC, &end);
    printf("%ld %.6f %ld\n", messages, (double) (end.tv_sec - begin.tv_sec) + 1e-9 * (double) (end.tv_nsec - begin.tv_nsec),
           atomic_load(&accepted_at_data));
    if (atomic_load(&failed) > 0)
        fprintf(stderr, "%ld conversations failed\n", atomic_load(&failed));
    return atomic_load(&failed) > 0;
}
