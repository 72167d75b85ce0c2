"""The warp kernels of the renderer: rasterise triangles, then shade every visible pixel (CPU, one thread)."""

import warp as wp

from .surface import (
    EYE,
    HAIR,
    LASH,
    LENS,
    SKIN,
    TEETH,
    TONGUE,
    Look,
    finish,
    lamps,
    noise,
    surface,
    unshadowed,
)


@wp.kernel(enable_backward=False)
def vertex_normals(
    points: wp.array(dtype=wp.vec3), triangles: wp.array2d(dtype=int), normals: wp.array(dtype=wp.vec3)
):
    """Area-weighted normals, accumulated (not normalised)."""
    t = wp.tid()
    i = triangles[t, 0]
    j = triangles[t, 1]
    k = triangles[t, 2]
    n = wp.cross(points[j] - points[i], points[k] - points[i])
    wp.atomic_add(normals, i, n)
    wp.atomic_add(normals, j, n)
    wp.atomic_add(normals, k, n)


@wp.kernel(enable_backward=False)
def rasterise(
    screen: wp.array(dtype=wp.vec3),
    triangles: wp.array2d(dtype=int),
    material: wp.array(dtype=int),
    alpha: wp.array(dtype=wp.vec3),
    tile: wp.array2d(dtype=float),
    casts_only: int,
    depth: wp.array2d(dtype=float),
    ids: wp.array2d(dtype=int),
):
    """Depth test of one triangle against every sample it covers.

    screen holds sample x, sample y and nearness (larger = nearer, linear on the screen). The device is the CPU, where
    warp runs the launch as one loop, so plain reads and writes of the buffers cannot race.
    """
    t = wp.tid()
    mat = material[t]
    ia = triangles[t, 0]
    ib = triangles[t, 1]
    ic = triangles[t, 2]
    a = screen[ia]
    b = screen[ib]
    c = screen[ic]
    area = (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])
    if wp.abs(area) < 1.0e-9:
        return
    if casts_only == 1 and (mat == LENS or mat == LASH or mat == EYE):
        return
    if area > 0.0 and mat <= TONGUE and mat != TEETH and casts_only == 0:
        return  # facing away (the screen's y axis points down)
    height = depth.shape[0]
    width = depth.shape[1]
    x0 = wp.max(int(wp.ceil(wp.min(a[0], wp.min(b[0], c[0])))), 0)
    x1 = wp.min(int(wp.floor(wp.max(a[0], wp.max(b[0], c[0])))), width - 1)
    y0 = wp.max(int(wp.ceil(wp.min(a[1], wp.min(b[1], c[1])))), 0)
    y1 = wp.min(int(wp.floor(wp.max(a[1], wp.max(b[1], c[1])))), height - 1)
    if x1 < x0 or y1 < y0 or a[2] <= 0.0 or b[2] <= 0.0 or c[2] <= 0.0:
        return
    inv = 1.0 / area
    sheer = mat == LASH or mat == HAIR or mat == LENS
    du = (b[1] - c[1]) * inv
    dv = (c[1] - a[1]) * inv
    for y in range(y0, y1 + 1):
        fy = float(y)
        u0 = (b[0] * (c[1] - fy) - (b[1] - fy) * c[0]) * inv
        v0 = (c[0] * (a[1] - fy) - (c[1] - fy) * a[0]) * inv
        for x in range(x0, x1 + 1):
            fx = float(x)
            u = u0 + du * fx
            v = v0 + dv * fx
            w = 1.0 - u - v
            if u >= 0.0 and v >= 0.0 and w >= 0.0:
                z = u * a[2] + v * b[2] + w * c[2]
                if z > depth[y, x]:
                    solid = wp.int32(1)
                    if sheer:
                        s = alpha[ia] * u + alpha[ib] * v + alpha[ic] * w
                        cover = s[0]
                        if mat == HAIR and casts_only == 0:
                            cover = (
                                cover
                                + 0.9 * (noise(tile, s[1], s[2]) - 0.5)
                                + 0.5 * (noise(tile, 3.1 * s[1] + 17.0, s[2]) - 0.5)
                            )
                        cell = (x & 1) * 2 + ((x + y) & 1)
                        if cover <= (float(cell) + 0.5) * 0.25:
                            solid = 0
                    if solid == 1:
                        depth[y, x] = z
                        ids[y, x] = t


@wp.kernel(enable_backward=False)
def shade(
    ids: wp.array2d(dtype=int),
    depth: wp.array2d(dtype=float),
    screen: wp.array(dtype=wp.vec3),
    points: wp.array(dtype=wp.vec3),
    normals: wp.array(dtype=wp.vec3),
    place: wp.array(dtype=wp.vec3),
    colours: wp.array(dtype=wp.vec3),
    aux: wp.array(dtype=wp.vec4),
    ao: wp.array(dtype=float),
    triangles: wp.array2d(dtype=int),
    material: wp.array(dtype=int),
    tile: wp.array2d(dtype=float),
    look: Look,
    eye: wp.vec3,
    to_light: wp.mat44,
    shadow: wp.array2d(dtype=float),
    background: wp.array2d(dtype=wp.vec3),
    image: wp.array2d(dtype=wp.vec3),
):
    """Colour of one pixel: the mean of its 2×2 samples.

    Samples of one material at about one depth are shaded once, at the pixel's centre, so paint lands where the labels say.
    """
    row, col = wp.tid()
    total = wp.vec3(0.0, 0.0, 0.0)
    last = wp.int32(-1)  # wp.int32 and wp.float32 mark what changes inside a loop
    last_near = wp.float32(0.0)
    colour = wp.vec3(0.0, 0.0, 0.0)
    for sub in range(4):
        y = 2 * row + (sub >> 1)
        x = 2 * col + (sub & 1)
        t = ids[y, x]
        if t < 0:
            total += background[row, col]
        elif material[t] == last and wp.abs(depth[y, x] - last_near) < 0.004 * last_near:
            total += colour
        else:
            mat = material[t]
            last = mat
            last_near = depth[y, x]
            ia = triangles[t, 0]
            ib = triangles[t, 1]
            ic = triangles[t, 2]
            a = screen[ia]
            b = screen[ib]
            c = screen[ic]
            fx = 2.0 * float(col) + 0.5
            fy = 2.0 * float(row) + 0.5
            inv = 1.0 / ((b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0]))
            u = wp.clamp(((b[0] - fx) * (c[1] - fy) - (b[1] - fy) * (c[0] - fx)) * inv, 0.0, 1.0) * a[2]
            v = wp.clamp(((c[0] - fx) * (a[1] - fy) - (c[1] - fy) * (a[0] - fx)) * inv, 0.0, 1.0) * b[2]
            w = wp.clamp(((a[0] - fx) * (b[1] - fy) - (a[1] - fy) * (b[0] - fx)) * inv, 0.0, 1.0) * c[2]
            s = 1.0 / (u + v + w)  # screen weights × nearness: perspective-correct
            u = u * s
            v = v * s
            w = w * s
            pos = points[ia] * u + points[ib] * v + points[ic] * w
            n = wp.normalize(normals[ia] * u + normals[ib] * v + normals[ic] * w)
            tp = place[ia] * u + place[ib] * v + place[ic] * w
            base = colours[ia] * u + colours[ib] * v + colours[ic] * w
            ax = aux[ia] * u + aux[ib] * v + aux[ic] * w
            open_ = ao[ia] * u + ao[ib] * v + ao[ic] * w
            view = wp.normalize(eye - pos)
            if wp.dot(n, view) < 0.0 and mat != SKIN:
                n = -n
            q = to_light * wp.vec4(pos[0] + 0.04 * n[0], pos[1] + 0.04 * n[1], pos[2] + 0.04 * n[2], 1.0)
            lit = 1.0 - look.shadow_strength * (1.0 - unshadowed(q, shadow))
            base = surface(mat, base, tp, ax, look, tile)
            colour = lamps(mat, base, finish(mat, ax, look), n, view, open_, lit, look)
            total += colour
    image[row, col] = total * 0.25
