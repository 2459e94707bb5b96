#include <stdio.h>

#include "rotate.h"

int main(int argc, char **argv) {
	for (int i = 1; i < argc; i++) {
		rotate(argv[i], 13);
		printf("%s%c", argv[i], i + 1 < argc ? ' ' : '\n');
	}
	return argc < 2;
}
