/* webapp serves the files of one directory over HTTP/1.0 and counts requests. */
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

static void reply(int fd, const char *status, const char *body, size_t len) {
	dprintf(fd, "HTTP/1.0 %s\r\nContent-Length: %zu\r\nContent-Type: text/html\r\n\r\n", status, len);
	while (len > 0) {
		ssize_t n = write(fd, body, len);
		if (n <= 0)
			return;
		body += n;
		len -= (size_t)n;
	}
}

static void serve(int fd, const char *pages, unsigned long count) {
	char req[2048], path[1024], file[4096];
	ssize_t n = read(fd, req, sizeof req - 1);
	if (n <= 0)
		return;
	req[n] = 0;
	if (sscanf(req, "GET %1023s", path) != 1 || strstr(path, "..")) {
		reply(fd, "400 Bad Request", "bad request\n", 12);
		return;
	}
	if (strcmp(path, "/count") == 0) {
		char body[64];
		int len = snprintf(body, sizeof body, "%lu\n", count);
		reply(fd, "200 OK", body, (size_t)len);
		return;
	}
	snprintf(file, sizeof file, "%s%s", pages, strcmp(path, "/") == 0 ? "/index.html" : path);
	int page = open(file, O_RDONLY | O_NOFOLLOW);
	struct stat st;
	if (page < 0 || fstat(page, &st) < 0 || !S_ISREG(st.st_mode)) {
		reply(fd, "404 Not Found", "not found\n", 10);
	} else {
		char *body = malloc((size_t)st.st_size + 1);
		if (body && read(page, body, (size_t)st.st_size) == st.st_size)
			reply(fd, "200 OK", body, (size_t)st.st_size);
		free(body);
	}
	if (page >= 0)
		close(page);
}

int main(void) {
	const char *port = getenv("PORT"), *pages = getenv("PAGES");
	struct sockaddr_in addr = {.sin_family = AF_INET, .sin_port = htons((unsigned short)atoi(port ? port : "8080"))};
	int on = 1, s = socket(AF_INET, SOCK_STREAM, 0);
	signal(SIGPIPE, SIG_IGN);
	setsockopt(s, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
	if (s < 0 || bind(s, (struct sockaddr *)&addr, sizeof addr) < 0 || listen(s, 16) < 0) {
		perror("webapp");
		return 1;
	}
	for (unsigned long count = 1;; count++) {
		int fd = accept(s, NULL, NULL);
		if (fd < 0)
			continue;
		serve(fd, pages ? pages : ".", count);
		close(fd);
	}
}
