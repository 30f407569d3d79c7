/* An application behind a web server: HTTP/1.1 on a port of this machine, one page for every request.
 *
 *     web_application PORT KNOBS
 *
 * With port 0 a free one is taken, and printed.
 * KNOBS is a file of 64-bit numbers that is mapped: [0] is how many turns `render_page` takes, of 50 dependent
 * multiplications in registers each. One process serves all connections, by epoll. It runs until it is killed or its
 * parent ends.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

enum { MOST = 1024, ROWS = 40 };

static const volatile uint64_t *knobs;

#if defined(__x86_64__)
#define TURN ".rept 50\n\timulq %0, %0\n\taddq $7, %0\n\t.endr"
#else
#define TURN ".rept 50\n\tmul %0, %0, %0\n\tadd %0, %0, #7\n\t.endr"
#endif

__attribute__((noinline)) uint64_t render_page(uint64_t value)
{
	value |= 1;
	for (uint64_t turns = knobs[0]; turns; turns--)
		__asm__ volatile(TURN : "+r"(value));
	return value;
}

static void fail(const char *what)
{
	perror(what);
	exit(1);
}

__attribute__((noinline)) static void answer(int client, uint64_t number)
{
	static char body[16384], head[256];
	size_t size = 0;
	int length;

	for (unsigned row = 0; row < ROWS; row++)
		size += (size_t)snprintf(body + size, sizeof(body) - size, "<tr><td>%u</td><td>%llx</td></tr>\n", row,
					 (unsigned long long)(number * (row + 1)));
	size += (size_t)snprintf(body + size, sizeof(body) - size, "</html>\n");
	length = snprintf(head, sizeof(head), "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: %zu\r\n\r\n", size);
	if (send(client, head, (size_t)length, MSG_NOSIGNAL | MSG_MORE) < 0 || send(client, body, size, MSG_NOSIGNAL) < 0)
		close(client);
}

int main(int argc, char **argv)
{
	struct sockaddr_in here = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
	int file = argc == 3 ? open(argv[2], O_RDONLY) : -1, poll = epoll_create1(EPOLL_CLOEXEC), one = 1, listening;
	struct epoll_event event = {.events = EPOLLIN};
	uint64_t number = 1;

	if (file < 0) {
		fprintf(stderr, "usage: %s PORT KNOBS\n", argv[0]);
		return 2;
	}
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	knobs = mmap(NULL, 4096, PROT_READ, MAP_SHARED, file, 0);
	if (knobs == MAP_FAILED)
		fail(argv[2]);
	here.sin_port = htons((uint16_t)atoi(argv[1]));
	event.data.fd = listening = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	setsockopt(listening, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (bind(listening, (void *)&here, sizeof(here)) || listen(listening, 64) ||
	    epoll_ctl(poll, EPOLL_CTL_ADD, listening, &event))
		fail("listen");
	if (!here.sin_port) {
		socklen_t size = sizeof(here);

		getsockname(listening, (void *)&here, &size);
		printf("%u\n", ntohs(here.sin_port));
		fflush(stdout);
	}
	for (;;) {
		struct epoll_event ready[MOST];
		int found = epoll_wait(poll, ready, MOST, -1);

		for (int i = 0; i < found; i++) {
			static char request[65536];
			int client = ready[i].data.fd;
			ssize_t got;

			if (client == listening) {
				event.data.fd = client = accept4(listening, NULL, NULL, SOCK_CLOEXEC);
				setsockopt(client, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
				if (client < 0 || epoll_ctl(poll, EPOLL_CTL_ADD, client, &event))
					fail("accept");
				continue;
			}
			/* The web server in front sends a request at once, and the next one after the answer. */
			got = recv(client, request, sizeof(request), 0);
			if (got <= 0) {
				close(client);
			} else if (got >= 4 && !memcmp(request + got - 4, "\r\n\r\n", 4)) {
				number = render_page(number);
				answer(client, number);
			}
		}
	}
}
