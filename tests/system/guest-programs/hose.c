/* hose: moves bytes through a stream socket and looks at every one of them.
 *
 * Usage: hose echo ADDRESS               says back what each connection says, connections side by side, for ever
 *        hose send ADDRESS BYTES SEED    sends BYTES and takes them back at the same time; checks each; then both ends
 *                                        say that they have done
 *        hose hold ADDRESS               sends one byte, takes it back, says "held", and then how the stream ends
 *        hose fail ADDRESS               says how connecting fails
 * ADDRESS: vsock:CID:PORT, unix:PATH, or unix:PATH:PORT, which says CONNECT PORT there first.
 * Prints one line; exit status 0 when all was well. A guest has it in its initrd, the host runs the same program. */
#include <errno.h>
#include <linux/vm_sockets.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

static int die(const char* what) {
  printf("%s: %s\n", what, strerror(errno));
  exit(1);
}

static unsigned char byte_at(unsigned long seed, unsigned long i) {
  unsigned long x = (i + 1) * 0x9e3779b97f4a7c15UL + seed;
  x ^= x >> 29;
  return (unsigned char)(x * 0xbf58476d1ce4e5b9UL >> 56);
}

/* Listens or connects; `hello`: the port to ask for, 0 for none. */
static int open_address(const char* address, int listening, unsigned* hello) {
  *hello = 0;
  if (strncmp(address, "vsock:", 6) == 0) {
    struct sockaddr_vm vm = {.svm_family = AF_VSOCK};
    if (sscanf(address, "vsock:%u:%u", &vm.svm_cid, &vm.svm_port) != 2) exit(2);
    if (listening) vm.svm_cid = VMADDR_CID_ANY;
    int fd = socket(AF_VSOCK, SOCK_STREAM, 0);
    if (fd < 0) die("socket");
    if (listening ? bind(fd, (void*)&vm, sizeof vm) || listen(fd, 64) : connect(fd, (void*)&vm, sizeof vm))
      die(listening ? "listen" : "connect");
    return fd;
  }
  struct sockaddr_un un = {.sun_family = AF_UNIX};
  const char* path = address + 5;
  const char* colon = strrchr(path, ':');
  size_t length = colon ? (size_t)(colon - path) : strlen(path);
  if (strncmp(address, "unix:", 5) != 0 || length >= sizeof un.sun_path) exit(2);
  memcpy(un.sun_path, path, length);
  if (colon) *hello = (unsigned)strtoul(colon + 1, NULL, 10);
  int fd = socket(AF_UNIX, SOCK_STREAM, 0);
  if (fd < 0) die("socket");
  if (listening) unlink(un.sun_path);
  if (listening ? bind(fd, (void*)&un, sizeof un) || listen(fd, 64) : connect(fd, (void*)&un, sizeof un))
    die(listening ? "listen" : "connect");
  return fd;
}

static int connect_to(const char* address) {
  unsigned hello;
  int fd = open_address(address, 0, &hello);
  if (hello == 0) return fd;
  char line[64];
  int length = snprintf(line, sizeof line, "CONNECT %u\n", hello);
  if (write(fd, line, (size_t)length) != length) die("CONNECT");
  for (length = 0; length < 63; ++length) {
    ssize_t n = read(fd, line + length, 1);
    if (n <= 0) {
      printf("refused\n");
      exit(1);
    }
    if (line[length] == '\n') break;
  }
  if (strncmp(line, "OK ", 3) != 0) {
    printf("no OK\n");
    exit(1);
  }
  return fd;
}

static int echo(const char* address) {
  unsigned hello;
  int listener = open_address(address, 1, &hello);
  signal(SIGCHLD, SIG_IGN);
  for (;;) {
    int fd = accept(listener, NULL, NULL);
    if (fd < 0) continue;
    if (fork() == 0) {
      static char buffer[65536];
      for (ssize_t n; (n = read(fd, buffer, sizeof buffer)) > 0;) {
        for (ssize_t done = 0, w; done < n; done += w) {
          w = write(fd, buffer + done, (size_t)(n - done));
          if (w <= 0) _exit(1);
        }
      }
      shutdown(fd, SHUT_WR);
      _exit(0);
    }
    close(fd);
  }
}

static int send_and_check(const char* address, unsigned long bytes, unsigned long seed) {
  int fd = connect_to(address);
  unsigned long sent = 0, received = 0;
  static unsigned char buffer[32768];
  while (received < bytes) {
    struct pollfd poller = {fd, (short)(POLLIN | (sent < bytes ? POLLOUT : 0)), 0};
    if (poll(&poller, 1, 120000) <= 0) {
      printf("stuck after %lu sent, %lu received\n", sent, received);
      return 1;
    }
    if (poller.revents & (POLLIN | POLLHUP | POLLERR)) {
      ssize_t n = recv(fd, buffer, sizeof buffer, MSG_DONTWAIT);
      if (n == 0 || (n < 0 && errno != EAGAIN)) {
        printf("ended after %lu sent, %lu received: %s\n", sent, received, n == 0 ? "end" : strerror(errno));
        return 1;
      }
      for (ssize_t i = 0; i < n; ++i, ++received) {
        if (buffer[i] != byte_at(seed, received)) {
          printf("byte %lu is wrong\n", received);
          return 1;
        }
      }
    }
    if (poller.revents & POLLOUT) {
      unsigned long n = bytes - sent < sizeof buffer ? bytes - sent : sizeof buffer;
      for (unsigned long i = 0; i < n; ++i) buffer[i] = byte_at(seed, sent + i);
      ssize_t w = send(fd, buffer, n, MSG_DONTWAIT | MSG_NOSIGNAL);
      if (w < 0 && errno != EAGAIN) die("send");
      if (w > 0) sent += (unsigned long)w;
    }
  }
  shutdown(fd, SHUT_WR);
  ssize_t n = read(fd, buffer, 1);
  if (n != 0) {
    printf("no clean end: %s\n", n < 0 ? strerror(errno) : "more bytes");
    return 1;
  }
  printf("ok %lu\n", received);
  return 0;
}

static int hold(const char* address) {
  int fd = connect_to(address);
  char byte = 'x';
  if (write(fd, &byte, 1) != 1 || read(fd, &byte, 1) != 1) die("hold");
  printf("held\n");
  fflush(stdout);
  ssize_t n = read(fd, &byte, 1);
  printf("%s\n", n == 0 ? "end" : n < 0 ? strerror(errno) : "more bytes");
  return 0;
}

int main(int argc, char** argv) {
  signal(SIGPIPE, SIG_IGN);
  if (argc == 3 && strcmp(argv[1], "echo") == 0) return echo(argv[2]);
  if (argc == 3 && strcmp(argv[1], "hold") == 0) return hold(argv[2]);
  if (argc == 3 && strcmp(argv[1], "fail") == 0) {
    connect_to(argv[2]);
    printf("connected\n");
    return 1;
  }
  if (argc == 5 && strcmp(argv[1], "send") == 0)
    return send_and_check(argv[2], strtoul(argv[3], NULL, 10), strtoul(argv[4], NULL, 10));
  fprintf(stderr, "usage: hose echo|send|hold|fail ADDRESS [BYTES SEED]\n");
  return 2;
}
