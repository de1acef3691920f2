/* Bragg photons by brute force, as the published programs do it: every pixel, channel and mosaic domain, double
 * precision, one thread, shape gauss with its early exit (F_latt is 0 where its argument reaches 35). */

#include <math.h>

struct panel {
    double origin[3], fast[3], slow[3], normal[3]; /* mm and unit vectors */
    double pixel, closest;                         /* mm */
    double depth, polarization;                    /* attenuation lengths; Kahn's K along x */
};

/* out: (n_rows, n_fast) photons of rows of pixels. inverse: (n_domains, 3, 3) (R A)^-1, Angstrom. row_of: dense box of
 * indices from low on, of given size; rows of f_squared (node, channel), or -1. scale: photons per unit of the sum. */
void brute(const struct panel *panel, int n_rows, const int *rows, int n_fast,
           int n_channels, const double *energies, const double *photons, int n_domains, const double *inverse,
           const double *n_cells, const int *low, const int *size, const int *row_of, const double *f_squared,
           double scale, double *out)
{
    const double hc = 12398.4197386, volume = n_cells[0] * n_cells[1] * n_cells[2];
    for (int i = 0; i < n_rows; i++) {
        for (int j = 0; j < n_fast; j++) {
            double place[3], ray[3], square = 0.0, along = 0.0, sum = 0.0;
            for (int x = 0; x < 3; x++) {
                place[x] = panel->origin[x] + panel->pixel * (panel->fast[x] * (j + 0.5) + panel->slow[x] * (rows[i] + 0.5));
                square += place[x] * place[x];
            }
            const double distance = sqrt(square);
            for (int x = 0; x < 3; x++) {
                ray[x] = place[x] / distance;
                along += ray[x] * panel->normal[x];
            }
            const double omega = panel->pixel * panel->pixel * panel->closest / (distance * distance * distance);
            const double captured = 1.0 - exp(-panel->depth / fabs(along));
            const double kahn =
                0.5 * (1.0 + ray[2] * ray[2] - panel->polarization * (ray[0] * ray[0] - ray[1] * ray[1]));
            for (int c = 0; c < n_channels; c++) {
                const double k = energies[c] / hc;
                const double q[3] = {k * ray[0], k * ray[1], k * (ray[2] + 1.0)};
                double of_channel = 0.0;
                for (int d = 0; d < n_domains; d++) {
                    const double *m = inverse + 9 * d;
                    double r2 = 0.0;
                    int at[3];
                    for (int x = 0; x < 3; x++) {
                        const double h = m[3 * x] * q[0] + m[3 * x + 1] * q[1] + m[3 * x + 2] * q[2];
                        const double nearest = ceil(h - 0.5), away = n_cells[x] * (h - nearest);
                        r2 += away * away;
                        at[x] = (int)nearest - low[x];
                    }
                    const double argument = r2 / 0.63;
                    if (argument >= 35.0)
                        continue;
                    if (at[0] < 0 || at[0] >= size[0] || at[1] < 0 || at[1] >= size[1] || at[2] < 0 || at[2] >= size[2])
                        continue;
                    const int row = row_of[(at[0] * size[1] + at[1]) * size[2] + at[2]];
                    if (row < 0)
                        continue;
                    const double f_latt = volume * exp(-argument);
                    of_channel += f_squared[(long)row * n_channels + c] * f_latt * f_latt;
                }
                sum += photons[c] * of_channel;
            }
            out[i * n_fast + j] = scale / n_domains * sum * omega * captured * kahn;
        }
    }
}
