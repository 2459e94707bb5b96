#include <stdio.h>
#include <string.h>

#include "rotate.h"

static int is(const char *in, int n, const char *want) {
	char got[64];
	strcpy(got, in);
	rotate(got, n);
	if (strcmp(got, want) == 0)
		return 0;
	printf("rotate %s by %d: %s, want %s\n", in, n, got, want);
	return 1;
}

int main(void) {
	int failed = is("Hello, z", 1, "Ifmmp, a") + is("abc", -1, "zab") + is("", 13, "") + is("same", 26, "same");
	printf("%d failed\n", failed);
	return failed;
}
