/* Ends a test program where a call has not the status that it should have. */
#ifndef EXPECT_H
#define EXPECT_H

#include <lvs_dr.h>
#include <stdio.h>
#include <stdlib.h>

static void expect(int expected, int status, int line)
{
    char text[512];

    if (status == expected)
        return;
    lvs_last_error_message(text, sizeof text);
    fprintf(stderr, "line %d: %s instead of %s: %s\n", line, lvs_status_name(status), lvs_status_name(expected), text);
    exit(EXIT_FAILURE);
}

#define EXPECT(expected, status) expect(expected, status, __LINE__)

#endif
