# SPDX-License-Identifier: GPL-3.0-or-later
#
# Runs INSIDE Blender, and uses its Python API: unlike the rest of this repository, which never imports it, this
# one file is licensed under the GNU General Public License, version 3 or later (see COPYING beside it).
# What it renders is free of that licence.
"""Renders each frame of a job three times over, with the same random numbers:

    full        what the camera sees
    unoccluded  the objects throw their shadows, but the camera looks through them
    bare        no objects at all

and, where the job asks for them (`extra_layers`),

    varnish        as `unoccluded`, but on black paint: what the varnish reflects
    varnish_bare   as `bare`, on black paint
    transmittance  how much of the picture shines through the objects: 1 beside them, 0 behind an opaque one

    blender --background --factory-startup --python render_layers.py -- JOB.json
    python render_layers.py JOB.json                  (with the package `bpy`)

A job is a list of frames; each says where its arrays go (`out`, an .npz) and holds plain numbers: lengths in units of
the picture's longer side, angles in radians, levels relative to light under which the picture looks as it is stored.
"""
import json, math, os, sys, tempfile

import bpy
import numpy as np
from mathutils import Vector

LAYERS = ('full', 'unoccluded', 'bare')
EXTRA_LAYERS = ('varnish', 'varnish_bare', 'transmittance')


def open_exr():
    "The OpenImageIO that Blender brings along; its folder is on the path in the program, not in the package."
    try: import OpenImageIO
    except ImportError:
        for home in (bpy.utils.resource_path('LOCAL'), bpy.utils.resource_path('SYSTEM')):
            sys.path.append(os.path.join(home, 'python', 'lib', 'python3.%d' % sys.version_info[1], 'site-packages'))
        try: import OpenImageIO
        except ImportError: sys.exit('this Blender brings no OpenImageIO for Python: take the program, or bpy 4.5 or newer')
    return OpenImageIO


def new_scene(job):
    "An empty scene with Cycles on the CPU, everything that varies between runs switched off."
    bpy.ops.wm.read_factory_settings(use_empty=True)
    scene = bpy.context.scene
    scene.render.engine = 'CYCLES'
    cycles = scene.cycles
    cycles.device, cycles.samples, cycles.seed = 'CPU', job['samples'], job['seed']
    cycles.use_adaptive_sampling, cycles.use_animated_seed = False, False
    cycles.use_denoising, cycles.denoiser = True, 'OPENIMAGEDENOISE'
    if 'varnish' in job.get('extra_layers', []):           # scenes by the hundred: three times as fast
        cycles.denoising_prefilter, cycles.denoising_quality = 'NONE', 'BALANCED'
    cycles.pixel_filter_type, cycles.sample_clamp_indirect = 'BOX', 20.
    cycles.max_bounces, cycles.diffuse_bounces, cycles.glossy_bounces = 8, 3, 3
    cycles.transmission_bounces, cycles.transparent_max_bounces = 6, 8
    render = scene.render
    render.resolution_y, render.resolution_x = job['size']
    render.resolution_percentage, render.dither_intensity = 100, 0.
    render.use_persistent_data = False                     # it lets one frame leak into the next
    render.threads_mode, render.threads = 'FIXED', job['threads']
    if hasattr(render.image_settings, 'media_type'): render.image_settings.media_type = 'MULTI_LAYER_IMAGE'
    render.image_settings.file_format, render.image_settings.color_depth = 'OPEN_EXR_MULTILAYER', '32'
    render.image_settings.exr_codec = 'ZIP'
    return scene


def add_layers(scene, objects, lamps, extra):
    "View layers that differ in which collections they see; a light group for each lamp."
    for name in (*LAYERS[1:], *extra): scene.view_layers.new(name)
    scene.view_layers[0].name = LAYERS[0]
    for layer in scene.view_layers:
        layer.cycles.denoising_store_passes = True         # keeps the noisy picture beside the clean one
        for name in lamps: layer.lightgroups.add(name=name)
        children = layer.layer_collection.children
        children[objects.name].indirect_only = layer.name in ('unoccluded', 'varnish')
        children[objects.name].exclude = layer.name in ('bare', 'varnish_bare')
        if extra:
            children['paint'].exclude = layer.name.startswith('varnish')
            children['black'].exclude = not layer.name.startswith('varnish')
        if layer.name == 'transmittance':
            layer.material_override, layer.cycles.use_denoising = transmittance_material(), False
            layer.samples = 2*scene.cycles.samples         # its outlines are not denoised
        elif 'varnish' in extra and layer.name not in LAYERS[:2]: layer.samples = max(1, scene.cycles.samples//2)


def transmittance_material():
    "Glows by an object's colour's alpha and lets light through by its colour: the picture glows, the objects dim it."
    material = bpy.data.materials.new('transmittance')
    node, link = nodes_of(material)
    info, glow, clear, both, out = (node(kind) for kind in (
        'ShaderNodeObjectInfo', 'ShaderNodeEmission', 'ShaderNodeBsdfTransparent', 'ShaderNodeAddShader',
        'ShaderNodeOutputMaterial'))
    link(info.outputs['Alpha'], glow.inputs['Strength'])
    link(info.outputs['Color'], clear.inputs['Color'])
    link(glow.outputs['Emission'], both.inputs[0])
    link(clear.outputs['BSDF'], both.inputs[1])
    link(both.outputs['Shader'], out.inputs['Surface'])
    return material


def nodes_of(material):
    if not material.node_tree: material.use_nodes = True   # from Blender 5 on they always have nodes
    tree = material.node_tree
    tree.nodes.clear()
    return tree.nodes.new, tree.links.new


def add_texture(name, array):
    "An array (H,W,3) as a picture in floats."
    height, width = array.shape[:2]
    image = bpy.data.images.new(name, width, height, float_buffer=True, is_data=True)
    rgba = np.ones((height, width, 4), np.float32)
    rgba[..., :3] = array[::-1]                            # Blender's pictures start at the bottom
    image.pixels.foreach_set(rgba.ravel())
    image.update()
    return image


def add_picture(collection, name, albedo, job):
    "The picture, flat on z = 0: matte paint, and a varnish that adds its highlights."
    height, width = albedo.shape[:2]                       # albedo: (H,W,3) linear
    side = max(height, width)
    mesh = bpy.data.meshes.new(name)
    x, y = width/side/2, height/side/2
    mesh.from_pydata([(-x, -y, 0), (x, -y, 0), (x, y, 0), (-x, y, 0)], [], [(0, 1, 2, 3)])
    corners = mesh.uv_layers.new()
    for loop, uv in zip(corners.data, [(0, 0), (1, 0), (1, 1), (0, 1)]): loop.uv = uv
    material = bpy.data.materials.new(name)
    node, link = nodes_of(material)
    texture, paint, varnish, both, out = (node(kind) for kind in (
        'ShaderNodeTexImage', 'ShaderNodeBsdfDiffuse', 'ShaderNodeBsdfGlossy', 'ShaderNodeAddShader',
        'ShaderNodeOutputMaterial'))
    texture.image, texture.interpolation = add_texture('albedo', albedo), 'Closest'
    varnish.inputs['Color'].default_value = (*[job['varnish']['strength']]*3, 1)
    varnish.inputs['Roughness'].default_value = job['varnish']['roughness']
    link(texture.outputs['Color'], paint.inputs['Color'])
    link(paint.outputs['BSDF'], both.inputs[0])
    link(varnish.outputs['BSDF'], both.inputs[1])
    link(both.outputs['Shader'], out.inputs['Surface'])
    if job.get('normals'):
        relief, normal = node('ShaderNodeTexImage'), node('ShaderNodeNormalMap')
        relief.image, relief.interpolation = add_texture('relief', np.load(job['normals'])/2 + .5), 'Closest'
        normal.space = 'OBJECT'
        link(relief.outputs['Color'], normal.inputs['Color'])
        for shader in (paint, varnish): link(normal.outputs['Normal'], shader.inputs['Normal'])
    mesh.materials.append(material)
    thing = bpy.data.objects.new(name, mesh)
    thing.color = (0, 0, 0, 1)                             # opaque, and glows where transmittance is looked at
    collection.objects.link(thing)


def add_camera(scene):
    "Straight above, without perspective: one texel is one pixel."
    camera = bpy.data.cameras.new('camera')
    camera.type, camera.ortho_scale, camera.clip_end = 'ORTHO', 1., 100.
    scene.camera = bpy.data.objects.new('camera', camera)
    scene.camera.location = (0, 0, 20)
    scene.collection.objects.link(scene.camera)


def add_world(scene, job):
    "Ambient light from everywhere: level 1 shows the picture as it is stored."
    world = scene.world = bpy.data.worlds.new('ambient')
    if not world.node_tree: world.use_nodes = True
    background = world.node_tree.nodes['Background']
    background.inputs['Color'].default_value = (*job['ambient'], 1)
    background.inputs['Strength'].default_value = 1.
    world.lightgroup = 'ambient'


def add_lamp(scene, name, spec):
    "A point, spot, far, area lamp or a window, by the level that it reaches where it points; the camera does not see it."
    kind = dict(point='POINT', spot='SPOT', far='SUN', area='AREA', window='SPOT')[spec['kind']]
    lamp = bpy.data.lights.new(name, kind)
    place, aim = Vector(spec['place']), Vector(spec['aim'])
    squared = (place - aim).length_squared
    # level 1 is an irradiance of pi; Blender's watts are those of a lamp that shines all around
    lamp.energy = math.pi if kind == 'SUN' else 4*math.pi**2*squared
    lamp.color = (1, 1, 1)
    level = spec['level']
    lamp.energy *= max(level)
    lamp.color = [value/max(level) for value in level]
    if kind == 'SUN': lamp.angle = spec['size']
    elif kind == 'AREA':
        lamp.energy /= 4                                   # it shines to one side, most of it straight ahead
        lamp.shape, lamp.spread = 'RECTANGLE', spec['spread']
        lamp.size, lamp.size_y = spec['sides']
    else: lamp.shadow_soft_size = spec['size']
    if kind == 'SPOT': lamp.spot_size, lamp.spot_blend = spec['cone'], spec['blend']
    if spec['kind'] == 'window': add_pattern(lamp, spec['pattern'], math.sqrt(squared))
    thing = bpy.data.objects.new(name, lamp)
    thing.location = place
    thing.rotation_euler = (aim - place).to_track_quat('-Z', 'Y').to_euler()
    thing.visible_camera = False
    thing.lightgroup = name
    scene.collection.objects.link(thing)


def add_pattern(lamp, spec, distance):
    "Lets the lamp shine through a window's panes, a blind's slats or leaves, in lengths where it points."
    lamp.use_nodes = True
    tree = lamp.node_tree
    tree.nodes.clear()
    node, link = tree.nodes.new, tree.links.new

    def calculate(operation, *values):
        math_node = node('ShaderNodeMath')
        math_node.operation = operation
        for socket, value in zip(math_node.inputs, values):
            if isinstance(value, (int, float)): socket.default_value = value
            else: link(value, socket)
        return math_node.outputs[0]

    def falls(value, start, end):                          # 1 up to start, 0 from end on, smooth between
        ramp = node('ShaderNodeMapRange')
        ramp.interpolation_type = 'SMOOTHSTEP'
        for name, number in (('From Min', start), ('From Max', end), ('To Min', 1), ('To Max', 0)):
            ramp.inputs[name].default_value = number
        link(value, ramp.inputs['Value'])
        return ramp.outputs['Result']

    direction, parts = node('ShaderNodeTexCoord'), node('ShaderNodeSeparateXYZ')
    link(direction.outputs['Normal'], parts.inputs['Vector'])
    across, along = (calculate('MULTIPLY', calculate('DIVIDE', parts.outputs[i], parts.outputs[2]), distance) for i in (0, 1))
    cos, sin = math.cos(spec['angle']), math.sin(spec['angle'])
    turned = [calculate('ADD', calculate('MULTIPLY', across, a), calculate('MULTIPLY', along, b))
              for a, b in ((cos, -sin), (sin, cos))]
    if spec['leaves']:
        place, noise = node('ShaderNodeCombineXYZ'), node('ShaderNodeTexNoise')
        for socket, value in zip(place.inputs, turned): link(value, socket)
        noise.inputs['Scale'].default_value, noise.inputs['Detail'].default_value = 1/spec['pane'][0], 2.
        link(place.outputs['Vector'], noise.inputs['Vector'])
        open_share = falls(noise.outputs[0], .5 - spec['edge']/2, .5 + spec['edge']/2)
    else:
        open_share = 1.
        for value, pane, count in zip(turned, spec['pane'], spec['count']):
            panes = calculate('ADD', calculate('DIVIDE', value, pane), count/2)
            beside = calculate('ABSOLUTE', calculate('SUBTRACT', calculate('FRACT', panes), .5))
            clear = falls(beside, .5 - spec['bar']/2 - spec['edge']/2, .5 - spec['bar']/2 + spec['edge']/2)
            within = calculate('MULTIPLY', calculate('GREATER_THAN', panes, 0.), calculate('LESS_THAN', panes, float(count)))
            open_share = calculate('MULTIPLY', open_share, calculate('MULTIPLY', clear, within))
    glow, out = node('ShaderNodeEmission'), node('ShaderNodeOutputLight')
    link(open_share, glow.inputs['Strength'])
    link(glow.outputs['Emission'], out.inputs['Surface'])


MESHES = dict(
    box=lambda: bpy.ops.mesh.primitive_cube_add(size=2),
    ball=lambda: bpy.ops.mesh.primitive_uv_sphere_add(segments=48, ring_count=24),
    cylinder=lambda: bpy.ops.mesh.primitive_cylinder_add(vertices=48, radius=1, depth=2),
    cone=lambda: bpy.ops.mesh.primitive_cone_add(vertices=48, radius1=1, depth=2),
    torus=lambda: bpy.ops.mesh.primitive_torus_add(major_radius=.7, minor_radius=.3, major_segments=64),
    gem=lambda: bpy.ops.mesh.primitive_ico_sphere_add(subdivisions=1),
    monkey=lambda: bpy.ops.mesh.primitive_monkey_add(size=2),
    card=lambda: bpy.ops.mesh.primitive_plane_add(size=2))
SMOOTH = {'ball', 'torus', 'monkey'}


def add_material(spec):
    "Matte, glossy, metal, or a film or a glass that lets coloured light through."
    material = bpy.data.materials.new(spec['material'])
    node, link = nodes_of(material)
    out, body = node('ShaderNodeOutputMaterial'), node('ShaderNodeBsdfPrincipled')
    body.inputs['Base Color'].default_value = (*spec['colour'], 1)
    body.inputs['Roughness'].default_value = spec['roughness']
    body.inputs['Metallic'].default_value = float(spec['material'] == 'metal')
    if spec['material'] == 'matte': body.inputs['Specular IOR Level'].default_value = 0.
    if spec['material'] == 'glass':
        body.inputs['Transmission Weight'].default_value, body.inputs['IOR'].default_value = 1., 1.15
    surface = body.outputs['BSDF']
    if spec['material'] == 'film':
        clear, mix = node('ShaderNodeBsdfTransparent'), node('ShaderNodeMixShader')
        clear.inputs['Color'].default_value = (*spec['colour'], 1)
        mix.inputs['Fac'].default_value = spec['opacity']
        link(clear.outputs['BSDF'], mix.inputs[1])
        link(surface, mix.inputs[2])
        surface = mix.outputs['Shader']
    link(surface, out.inputs['Surface'])
    return material


def add_object(collection, spec):
    "One thing in the way."
    MESHES[spec['kind']]()
    thing = bpy.context.object
    for home in list(thing.users_collection): home.objects.unlink(thing)
    collection.objects.link(thing)
    thing.location, thing.rotation_euler, thing.scale = spec['place'], spec['rotation'], spec['scale']
    if spec['kind'] in SMOOTH:
        for face in thing.data.polygons: face.use_smooth = True
    thing.data.materials.append(add_material(spec))
    clear = [0, 0, 0]                                      # of one surface: a ball has two
    if spec['material'] == 'film': clear = [(1 - spec['opacity'])*c for c in spec['colour']]
    if spec['material'] == 'glass': clear = [math.sqrt(c) for c in spec['colour']]
    thing.color = (*clear, 0)


def read_passes(path):
    "Every pass of a multi-layer EXR, as {(layer, pass): (H,W,C) float32}."
    picture = open_exr().ImageInput.open(path)
    passes = {}
    part = 0
    while picture.seek_subimage(part, 0):
        spec = picture.spec()
        pixels = picture.read_image(part, 0, 0, spec.nchannels, 'float').reshape(spec.height, spec.width, -1)
        for channel, name in enumerate(spec.channelnames):
            layer, what, component = name.rsplit('.', 2) if name.count('.') > 1 else ('', *name.split('.'))
            passes.setdefault((layer, what), {})[component] = pixels[..., channel]
        part += 1
    picture.close()
    return {key: np.stack([parts[c] for c in 'RGB'], -1) for key, parts in passes.items() if set('RGB') <= set(parts)}


def render(job):
    "One frame: builds the scene, renders, and writes the arrays."
    scene = new_scene(job)
    objects = bpy.data.collections.new('objects')
    scene.collection.children.link(objects)
    extra = job.get('extra_layers', [])
    albedo, home = np.load(job['albedo']), scene.collection
    if extra:
        for name in ('paint', 'black'): home.children.link(bpy.data.collections.new(name))
        add_picture(home.children['black'], 'black', np.zeros_like(albedo), job)
        home = home.children['paint']
    add_picture(home, 'picture', albedo, job)
    add_camera(scene)
    add_world(scene, job)
    names = ['lamp%d' % i for i in range(len(job['lamps']))]
    for name, spec in zip(names, job['lamps']): add_lamp(scene, name, spec)
    for spec in job['objects']: add_object(objects, spec)
    groups = ['ambient', *names] if job['light_groups'] else []
    add_layers(scene, objects, groups, extra)
    with tempfile.TemporaryDirectory() as home:
        scene.render.filepath = os.path.join(home, 'frame.exr')
        bpy.ops.render.render(write_still=True)
        passes = read_passes(scene.render.filepath)
    arrays = {name: passes[name, 'Combined'] for name in LAYERS}
    # both were rendered with the same random numbers: where they differ at all, an object is in the way
    noisy = [passes[name, 'Noisy Image'] for name in LAYERS]
    arrays['mask'] = (noisy[0] != noisy[1]).any(-1)
    arrays.update({name: passes[name, 'Combined'] for name in extra})
    for name in LAYERS if groups else ():
        arrays['lights_' + name] = np.stack([passes[name, 'Combined_' + group] for group in groups])
    draft = job['out'] + '.part'
    with open(draft, 'wb') as file: np.savez(file, **arrays)
    os.replace(draft, job['out'])


def main():
    arguments = sys.argv[sys.argv.index('--') + 1:] if '--' in sys.argv else sys.argv[1:]
    with open(arguments[0], encoding='utf-8') as file: jobs = json.load(file)
    if bpy.app.version < (4, 2): sys.exit('needs Blender 4.2 or newer; this is ' + bpy.app.version_string)
    open_exr()                                             # better missed now than after the first frame
    print('blender', bpy.app.version_string, flush=True)
    for i, job in enumerate(jobs):
        render(job)
        print('done', i, flush=True)


if __name__ == '__main__': main()
