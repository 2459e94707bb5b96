#include "rotate.h"

static char turn(char c, char first, int n) {
	return first + ((c - first + n) % 26 + 26) % 26;
}

void rotate(char *text, int n) {
	for (; *text; text++) {
		if (*text >= 'a' && *text <= 'z')
			*text = turn(*text, 'a', n);
		else if (*text >= 'A' && *text <= 'Z')
			*text = turn(*text, 'A', n);
	}
}
